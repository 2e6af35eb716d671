//! Command lines as they are, with what may be told of them.

use super::*;

/// Arguments with a bar between them.
fn scrubbed(arguments: &str) -> String {
    String::from_utf8(command_line(arguments.replace('|', "\0").as_bytes())).unwrap()
}

#[track_caller]
fn hides(cases: &[(&str, &str)]) {
    for (arguments, expected) in cases {
        assert_eq!(scrubbed(arguments), *expected, "{arguments}");
        let again = expected.replace(' ', "|");
        assert!(!scrubbed(&again).contains("hunter2"), "{again}");
    }
}

#[test]
fn options_with_the_name_of_a_secret() {
    hides(&[
        ("app|--password=hunter2|--port=80", "app --password=*** --port=80"),
        ("app|--password=hunter2 & more, of it|x", "app --password=*** x"),
        ("app|--password|hunter2|--verbose", "app --password *** --verbose"),
        ("app|--password|hunter 2|-v", "app --password *** -v"),
        ("app|--db.password=hunter2", "app --db.password=***"),
        ("java|-Dspring.datasource.password=hunter2|-jar|a.jar", "java -Dspring.datasource.password=*** -jar a.jar"),
        ("java|-Djavax.net.ssl.keyStorePassword=hunter2|A", "java -Djavax.net.ssl.keyStorePassword=*** A"),
        ("keytool|-storepass|hunter2|-alias|x", "keytool -storepass *** -alias x"),
        ("redis-server|--requirepass|hunter2", "redis-server --requirepass ***"),
        ("agent|--api-key|hunter2", "agent --api-key ***"),
        ("agent|--api_key=hunter2|--apiKey=hunter2|-apikey|hunter2", "agent --api_key=*** --apiKey=*** -apikey ***"),
        ("agent|--auth-token=hunter2", "agent --auth-token=***"),
        (
            "kubectl|create|secret|generic|db|--from-literal=password=hunter2",
            "kubectl create secret generic db --from-literal=password=***",
        ),
        ("aws|--secret-access-key|hunter2|s3|ls", "aws --secret-access-key *** s3 ls"),
    ]);
}

#[test]
fn variables_and_parameters() {
    hides(&[
        ("env|PGPASSWORD=hunter2|psql|-h|db", "env PGPASSWORD=*** psql -h db"),
        ("env|PGPASSWORD=hunter2 and a half|psql", "env PGPASSWORD=*** psql"),
        (
            "docker|run|-e|MYSQL_ROOT_PASSWORD=hunter2|-p|3306:3306|mysql",
            "docker run -e MYSQL_ROOT_PASSWORD=*** -p 3306:3306 mysql",
        ),
        ("env|SECRET_KEY_BASE=hunter2|JWT_SECRET=hunter2|rails|s", "env SECRET_KEY_BASE=*** JWT_SECRET=*** rails s"),
        ("MYSQL_PWD=hunter2|mysql", "MYSQL_PWD=*** mysql"),
        ("pg|host=db user=app password=hunter2 dbname=x", "pg host=db user=app password=*** dbname=x"),
        ("dotnet|Server=db;User Id=sa;Password=hunter2;Timeout=5", "dotnet Server=db;User Id=sa;Password=***;Timeout=5"),
        ("app|{\"user\":\"a\",\"password\":\"hunter2\",\"port\":1}", "app {\"user\":\"a\",\"password\":\"***\",\"port\":1}"),
        (
            "app|{\"user\": \"a\", \"password\": \"hunter 2\", \"port\": 1}",
            "app {\"user\": \"a\", \"password\": \"***\", \"port\": 1}",
        ),
        ("sh|-c|echo \"{\\\"token\\\":\\\"hunter2\\\"}\"", "sh -c echo \"{\\\"token\\\":\\\"***\"}\""),
        ("app|--set|image=x,db.password=hunter2,port=1", "app --set image=x,db.password=***,port=1"),
        ("app|password: hunter2", "app password: ***"),
    ]);
}

#[test]
fn urls_and_headers() {
    hides(&[
        ("app|postgres://app:hunter2@db:5432/x?sslmode=off", "app postgres://app:***@db:5432/x?sslmode=off"),
        ("app|redis://:hunter2@cache/0", "app redis://:***@cache/0"),
        ("app|amqp://a:hun@ter2@mq/v", "app amqp://a:***@mq/v"),
        ("app|postgres://app:hun/ter2@db/x", "app postgres://app:***@db/x"),
        ("app|--url=https://a:hunter2@h/p", "app --url=https://a:***@h/p"),
        ("curl|https://h/x?token=hunter2&y=1#z", "curl https://h/x?token=***&y=1#z"),
        ("curl|-H|Authorization: Bearer hunter2|https://h", "curl -H Authorization: *** https://h"),
        ("curl|-HAuthorization: Basic hunter2==|https://h", "curl -HAuthorization: *** https://h"),
        ("curl|-H|X-Api-Key: hunter2", "curl -H X-Api-Key: ***"),
        ("curl|-H|PRIVATE-TOKEN: hunter2", "curl -H PRIVATE-TOKEN: ***"),
        ("curl|-H|Cookie: a=hunter2; b=hunter2", "curl -H Cookie: ***"),
        ("git|-c|http.extraheader=AUTHORIZATION: basic hunter2", "git -c http.extraheader=AUTHORIZATION: ***"),
        ("ffmpeg|-i|rtsp://admin:12345@cam:554/1", "ffmpeg -i rtsp://admin:***@cam:554/1"),
        ("app|Bearer|hunter2", "app Bearer ***"),
        ("git|clone|https://oauth2:hunter2@gitlab.com/a/b.git", "git clone https://oauth2:***@gitlab.com/a/b.git"),
    ]);
}

#[test]
fn options_of_programs() {
    hides(&[
        ("mysql|-uroot|-phunter2|-P3306|db", "mysql -uroot -p*** -P3306 db"),
        ("/usr/bin/mysqldump|--host|db|-phunter2|all", "/usr/bin/mysqldump --host db -p*** all"),
        ("docker|exec|db|mysql|-phunter2", "docker exec db mysql -p***"),
        ("sshpass|-p|hunter2|ssh|-p|22|h", "sshpass -p *** ssh -p *** h"),
        ("mongosh|-u|a|-p|hunter2", "mongosh -u a -p ***"),
        ("redis-cli|-h|c|-a|hunter2|info", "redis-cli -h c -a *** info"),
        ("curl|-u|ops:hunter2|-uops:hunter2|--user|ops:hunter2|h", "curl -u ops:*** -uops:*** --user ops:*** h"),
        ("docker|login|-u|a|-p|hunter2|r", "docker login -u a -p *** r"),
        ("ldapsearch|-D|cn=a|-w|hunter2", "ldapsearch -D cn=a -w ***"),
        ("smbclient|-U|dom/ops%hunter2|//h/s", "smbclient -U dom/ops%*** //h/s"),
        ("7z|x|-phunter2|a.7z", "7z x -p*** a.7z"),
        ("openssl|rsa|-passin|pass:hunter2", "openssl rsa -passin pass:***"),
    ]);
}

#[test]
fn scripts_keep_what_is_around_a_secret() {
    hides(&[
        ("sh|-c|PGPASSWORD=hunter2 pg_dump -h db\n\t-p 5432 > x", "sh -c PGPASSWORD=*** pg_dump -h db\n\t-p 5432 > x"),
        ("bash|-lc|mysql -u root -phunter2 -e 'select 1'", "bash -lc mysql -u root -p*** -e 'select 1'"),
        ("sh|-c|app --password hunter2 --port 80", "sh -c app --password *** --port 80"),
        ("sh|-c|app --password 'hunter2 hunter2 x' --port 80", "sh -c app --password *** *** *** --port 80"),
        ("sh|-c|curl -H \"Authorization: Bearer hunter2\" https://h/x", "sh -c curl -H \"Authorization: ***\" https://h/x"),
        ("ssh|h|mysql -phunter2 db", "ssh h mysql -p*** db"),
        ("worker: dial postgres://a:hunter2@db/x for 3 s", "worker: dial postgres://a:***@db/x for 3 s"),
    ]);
}

#[test]
fn tokens_by_their_shape() {
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U";
    let tokens = [
        format!("AKIA{}", "IOSFODNN7EXAMPLE"),
        format!("ghp_{}", "a1B2".repeat(9)),
        format!("github_pat_{}", "a1B2".repeat(20)),
        format!("glpat-{}", "a1B2".repeat(5)),
        format!("xoxb-{}", "123-456-a1B2".repeat(3)),
        format!("hvs.{}", "a1B2".repeat(9)),
        jwt.to_owned(),
    ];
    for token in tokens {
        assert_eq!(scrubbed(&format!("app|{token}|x")), "app *** x");
        assert_eq!(scrubbed(&format!("app|--x={token}|x")), "app --x=*** x");
        assert_eq!(scrubbed(&format!("git|clone|https://{token}@github.com/a")), "git clone https://***@github.com/a");
    }
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbn\nhunter2\n-----END OPENSSH PRIVATE KEY-----";
    assert_eq!(
        scrubbed(&format!("app|--x|{key}|y")),
        "app --x -----BEGIN OPENSSH PRIVATE KEY-----***-----END OPENSSH PRIVATE KEY----- y"
    );
    assert_eq!(scrubbed("app|-----BEGIN PRIVATE KEY-----\nhunter2"), "app -----BEGIN PRIVATE KEY-----***");
}

#[test]
fn what_is_innocent_stays() {
    for line in [
        "/usr/bin/java|-Xmx4g|-jar|app.jar|--server.port=8080",
        "docker|run|-p|8080:80|-v|secret:/run/secret|nginx",
        "ssh|-p|22|git@github.com",
        "psql|-h|db|-p|5432|-U|app",
        "mysql|-u|root|-p|db",
        "mysqld|--port=3306|--datadir=/var/lib/mysql",
        "vault|--token-ttl|3600|--max-tokens|100",
        "app|--password-file|/run/secrets/db|--token-file=/run/t",
        "psql|--no-password|-l",
        "ansible|--ask-pass|--private-key|/root/.ssh/id|all",
        "env|PWD=/root|OLDPWD=/|PASSWORD_STORE_DIR=/x|GOOGLE_APPLICATION_CREDENTIALS=/etc/g.json",
        "git|clone|https://github.com/aya-rs/aya.git",
        "rsync|-a|ops@host:/srv|/srv",
        "curl|http://[::1]:9090/metrics?x=1|http://h:8080/a@b",
        "kubectl|get|secret|my-secret",
        "tail|-f|/var/log/secret.log",
        "postgres: app shop 10.0.0.1(50312) idle in transaction",
        "nginx: worker process",
        "python3|-m|http.server|8000",
        "grep|-r|token|src",
        "sh|-c|exec /usr/bin/app --config /etc/app.toml >> /var/log/app.log 2>&1",
        "app|--author=me|--key=value|--compass=n|--tokenizer|bpe|--enable-secret=true",
        "qemu|-drive|file=/d.img,if=none,id=a|-device|virtio-blk,drive=a",
        "sysops-agent|--config|/etc/sysops-agent/config.toml",
        "xoxb-|eyJ|AKIA|ghp_|a.b.c|-|--||=|:|://|password",
    ] {
        assert_eq!(scrubbed(line), line.replace('|', " "));
    }
}

#[test]
fn nothing_panics_and_time_is_linear() {
    let pieces: [&[u8]; 12] = [
        b"password=",
        b"://a:b",
        b"@",
        b"\"",
        b"'",
        b" ",
        b"--token",
        b"\0",
        b"eyJ",
        b"-----BEGIN PRIVATE KEY-----",
        b"\xff:",
        b"\\",
    ];
    let mut state = 1_u64;
    let mut looked = 0;
    for length in 0..2000 {
        let mut bytes = Vec::new();
        for _ in 0..length % 40 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.extend_from_slice(pieces[(state >> 33) as usize % pieces.len()]);
        }
        looked += command_line(&bytes).len();
    }
    assert!(looked > 10_000);
    // Quadratic, 256 KiB of any of these would take minutes.
    for piece in
        pieces.into_iter().chain([&b"a="[..], b"://a:b/", b"x://y:z://", b"password='", b"a.eyJ", b"-----BEGIN ", b"token: "])
    {
        let bytes = piece.repeat((1 << 18) / piece.len());
        let start = std::time::Instant::now();
        command_line(&bytes);
        assert!(start.elapsed().as_secs() < 20, "{}: {:?}", String::from_utf8_lossy(piece), start.elapsed());
    }
}
