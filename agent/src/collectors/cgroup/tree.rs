//! The walk over the trees of cgroups: one for all controllers (version 2), one for each (version 1), or both (hybrid).

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Values;
use super::files::Files;

/// Most directories that are looked into, in all trees together.
const MAX_VISITED: usize = 10_000;
/// Most cgroups that are told of.
const MAX_CGROUPS: usize = 500;
/// Longest that the walk goes on.
const BUDGET: Duration = Duration::from_millis(500);

/// What a walk found.
#[derive(Debug, Default)]
pub struct Found {
    /// Cgroups that have a limit, by their path below the root of their tree.
    pub cgroups: BTreeMap<String, Values>,
    /// What could not be read.
    pub skips: Vec<String>,
}

/// One tree.
struct Tree {
    root: PathBuf,
    version: u8,
    /// Controllers that are looked at in it: of `memory`, `cpu`, `pids`.
    controllers: Vec<&'static str>,
}

const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// Walks all trees below `root`, which is `/sys/fs/cgroup`.
pub fn walk(root: &Path) -> Found {
    let mut found = Found::default();
    let (trees, accounting) = trees(root);
    let until = Instant::now() + BUDGET;
    let mut visited = 0;
    let mut buffer = Vec::new();
    for tree in trees {
        // In breadth, so that a walk that is cut short has seen the upper cgroups.
        let mut queue = VecDeque::from([tree.root.clone()]);
        while let Some(mut directory) = queue.pop_front() {
            visited += 1;
            if visited > MAX_VISITED || found.cgroups.len() >= MAX_CGROUPS || Instant::now() > until {
                found.skips.push(format!("{} has more cgroups than are looked at", root.display()));
                return found;
            }
            look(&tree, accounting.as_deref(), &mut directory, &mut buffer, &mut found);
            // The kernel keeps the number of links at two and the number of directories below. A leaf need not be listed.
            if fs::symlink_metadata(&directory).is_ok_and(|metadata| metadata.nlink() == 2) {
                continue;
            }
            // One that has just been removed is no mistake.
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    queue.push_back(entry.path());
                }
            }
        }
    }
    found
}

/// The trees, and the root of the one that accounts for processor time in version 1.
fn trees(root: &Path) -> (Vec<Tree>, Option<PathBuf>) {
    if let Some(tree) = unified(root) {
        return (vec![tree], None);
    }
    let mut trees: Vec<Tree> = unified(&root.join("unified")).into_iter().collect();
    let mut accounting = None;
    let mut entries: Vec<_> = fs::read_dir(root).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        // Controllers that share a tree have links to it by their own names.
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let name = entry.file_name();
        let names: Vec<&str> = name.to_str().unwrap_or_default().split(',').collect();
        if names.contains(&"cpuacct") {
            accounting = Some(entry.path());
        }
        let controllers: Vec<&str> = CONTROLLERS.into_iter().filter(|controller| names.contains(controller)).collect();
        if !controllers.is_empty() {
            trees.push(Tree { root: entry.path(), version: 1, controllers });
        }
    }
    (trees, accounting)
}

/// The tree of version 2 at `root`, where there is one and it has any of the controllers.
fn unified(root: &Path) -> Option<Tree> {
    let text = fs::read_to_string(root.join("cgroup.controllers")).ok()?;
    let names: Vec<&str> = text.split_whitespace().collect();
    let controllers: Vec<&str> = CONTROLLERS.into_iter().filter(|controller| names.contains(controller)).collect();
    (!controllers.is_empty()).then(|| Tree { root: root.to_owned(), version: 2, controllers })
}

/// Reads one cgroup; keeps what is limited in it.
fn look(tree: &Tree, accounting: Option<&Path>, directory: &mut PathBuf, buffer: &mut Vec<u8>, found: &mut Found) {
    let mut values = Values::default();
    let mut files = Files { directory, buffer, skips: &mut found.skips };
    for controller in &tree.controllers {
        match *controller {
            "memory" => files.memory(tree.version, &mut values),
            "cpu" => files.cpu(tree.version, &mut values),
            _ => files.pids(&mut values),
        }
    }
    if values.iter().all(Option::is_none) {
        return;
    }
    let Ok(path) = directory.strip_prefix(&tree.root) else { return };
    if let Some(accounting) = accounting.filter(|_| tree.controllers.contains(&"cpu")) {
        let mut directory = accounting.join(path);
        Files { directory: &mut directory, buffer, skips: &mut found.skips }.cpu_used(&mut values);
    }
    let known = found.cgroups.entry(format!("/{}", path.to_string_lossy())).or_default();
    for (known, value) in known.iter_mut().zip(values) {
        *known = known.or(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Paths with memory used, cores, time used and most tasks.
    fn limited(root: &Path) -> Vec<(String, [Option<f64>; 4])> {
        let found = walk(root);
        assert_eq!(found.skips, [""; 0]);
        found.cgroups.into_iter().map(|(path, values)| (path, [values[0], values[7], values[8], values[13]])).collect()
    }

    #[test]
    fn version_2_is_one_tree() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(root, "cgroup.controllers", "cpuset cpu io memory hugetlb pids\n");
        write(root, "kube.slice/memory.max", "max\n");
        write(root, "kube.slice/cpu.max", "max 100000\n");
        write(root, "kube.slice/pod a/memory.max", "1048576\n");
        write(root, "kube.slice/pod a/memory.current", "4096\n");
        write(root, "kube.slice/pod a/cpu.max", "50000 100000\n");
        write(root, "kube.slice/pod a/cpu.stat", "usage_usec 2500000\nnr_periods 1\n");
        write(root, "kube.slice/pod a/pids.max", "64\n");
        let expected = [Some(4096.0), Some(0.5), Some(2.5), Some(64.0)];
        assert_eq!(limited(root), [("/kube.slice/pod a".to_owned(), expected)]);
    }

    #[test]
    fn hybrid_trees_are_put_together() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(root, "unified/cgroup.controllers", "\n");
        write(root, "unified/docker/x/cpu.stat", "usage_usec 1\n");
        write(root, "memory/docker/x/memory.limit_in_bytes", "1048576\n");
        write(root, "memory/docker/x/memory.usage_in_bytes", "4096\n");
        write(root, "memory/docker/y/memory.limit_in_bytes", "9223372036854771712\n");
        write(root, "cpu,cpuacct/docker/x/cpu.cfs_quota_us", "200000\n");
        write(root, "cpu,cpuacct/docker/x/cpu.cfs_period_us", "100000\n");
        write(root, "cpu,cpuacct/docker/x/cpuacct.usage", "3000000000\n");
        std::os::unix::fs::symlink("cpu,cpuacct", root.join("cpu")).unwrap();
        write(root, "pids/docker/x/pids.max", "100\n");
        let expected = [Some(4096.0), Some(2.0), Some(3.0), Some(100.0)];
        assert_eq!(limited(root), [("/docker/x".to_owned(), expected)]);
    }

    #[test]
    fn a_host_without_cgroups_has_none() {
        assert_eq!(limited(Path::new("/nonexistent")), []);
    }

    #[test]
    fn the_walk_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(root, "cgroup.controllers", "pids\n");
        for number in 0..=MAX_CGROUPS {
            write(root, &format!("{number}/pids.max"), "1\n");
        }
        let found = walk(root);
        assert!(found.cgroups.len() <= MAX_CGROUPS && !found.cgroups.is_empty());
        assert!(found.skips[0].ends_with("has more cgroups than are looked at"));
    }
}
