use super::*;

fn at(text: &str) -> Timestamp {
    time(text).unwrap()
}

fn weekly(days: &[Weekday], from: &str, to: &str, zone: &str) -> Window {
    Window::weekly(days.to_vec(), minute_of_day(from).unwrap(), minute_of_day(to).unwrap(), Some(zone)).unwrap()
}

/// The activity at a time, as text.
fn span(window: &Window, time: &str) -> Option<[String; 2]> {
    window.span(at(time)).map(|(begin, end)| [instant(begin), instant(end)])
}

fn lasts(window: &Window, begin: &str, end: &str) {
    let expected = Some([instant(at(begin)), instant(at(end))]);
    assert_eq!(span(window, begin), expected, "at its begin");
    let nano = |text: &str, by: i64| Timestamp::from_nanos(at(text).as_nanos() + by);
    assert!(window.span(nano(begin, -1)).is_none(), "before {begin}");
    assert!(window.span(nano(end, -1)).is_some(), "at the end of {end}");
    assert!(window.span(at(end)).is_none(), "after {end}");
}

#[test]
fn once_is_from_the_first_instant_until_before_the_last() {
    let window = Window::once(at("2026-03-01T22:00:00+01:00"), at("2026-03-02T02:00:00+01:00")).unwrap();
    lasts(&window, "2026-03-01T21:00:00Z", "2026-03-02T01:00:00Z");
    assert!(!window.is_over(at("2026-03-02T00:59:59Z")) && window.is_over(at("2026-03-02T01:00:00Z")));
    assert!(Window::once(at("2026-03-01T22:00:00Z"), at("2026-03-01T22:00:00Z")).is_err());
}

#[test]
fn the_night_belongs_to_the_day_on_which_it_began() {
    let window = weekly(&[Weekday::Sat], "22:00", "06:00", "Europe/Berlin");
    // 2026-02-21 is a Saturday.
    lasts(&window, "2026-02-21T22:00:00+01:00", "2026-02-22T06:00:00+01:00");
    assert_eq!(span(&window, "2026-02-21T03:00:00+01:00"), None, "the night from Friday");
    assert_eq!(span(&window, "2026-02-22T23:00:00+01:00"), None, "the night from Sunday");
    assert!(!window.is_over(at("2026-02-23T00:00:00Z")));
}

#[test]
fn a_skipped_hour_loses_no_window() {
    // Clocks go from 02:00 to 03:00 on 2026-03-29 in Berlin and on 2026-03-08 in New York.
    for (zone, day, winter, summer) in
        [("Europe/Berlin", "2026-03-29", "+01:00", "+02:00"), ("America/New_York", "2026-03-08", "-05:00", "-04:00")]
    {
        let sundays = |from, to| weekly(&[Weekday::Sun], from, to, zone);
        let time = |time: &str, offset: &str| format!("{day}T{time}:00{offset}");
        let before = |text: &str| instant(at(&time(text, winter)).minus(Duration::from_secs(86_400)));
        lasts(&sundays("01:30", "03:30"), &time("01:30", winter), &time("03:30", summer));
        lasts(&sundays("01:30", "02:30"), &time("01:30", winter), &time("03:30", summer));
        lasts(&sundays("02:30", "03:30"), &time("03:00", summer), &time("04:00", summer));
        lasts(&sundays("02:10", "02:50"), &time("03:00", summer), &time("03:40", summer));
        lasts(&sundays("02:00", "03:00"), &time("03:00", summer), &time("04:00", summer));
        lasts(&weekly(&[Weekday::Sat], "03:00", "02:30", zone), &before("03:00"), &time("03:30", summer));
    }
}

#[test]
fn an_hour_that_comes_twice_is_silenced_from_first_to_last() {
    // Clocks go from 03:00 back to 02:00 on 2026-10-25 in Berlin, and from 02:00 to 01:00 on 2026-11-01 in New York.
    let berlin = |from, to| weekly(&[Weekday::Sun], from, to, "Europe/Berlin");
    lasts(&berlin("02:15", "02:45"), "2026-10-25T02:15:00+02:00", "2026-10-25T02:45:00+01:00");
    lasts(&berlin("01:00", "02:30"), "2026-10-25T01:00:00+02:00", "2026-10-25T02:30:00+01:00");
    lasts(&berlin("02:30", "04:00"), "2026-10-25T02:30:00+02:00", "2026-10-25T04:00:00+01:00");
    let new_york = weekly(&[Weekday::Sat], "23:00", "01:30", "America/New_York");
    lasts(&new_york, "2026-10-31T23:00:00-04:00", "2026-11-01T01:30:00-05:00");
}

#[test]
fn windows_that_touch_end_together() {
    let days = weekly(&[Weekday::Sat, Weekday::Sun], "00:00", "24:00", "Europe/Berlin");
    let saturday = at("2026-03-28T12:00:00+01:00");
    assert_eq!(days.ends_after(saturday), Some(at("2026-03-30T00:00:00+02:00")));
    assert_eq!(days.ends_after(at("2026-03-27T12:00:00+01:00")), None);
    let always = weekly(&[], "00:00", "24:00", "UTC");
    assert_eq!(always.ends_after(at("2026-03-02T12:00:00Z")), Some(at("2026-03-11T00:00:00Z")));
}

#[test]
fn times_and_zones_are_checked() {
    assert_eq!(["00:00", "07:05", "23:59", "24:00"].map(|text| minute_of_day(text).unwrap()), [0, 425, 1439, 1440]);
    for text in ["", "7:05", "24:01", "12:60", "12", "1200", "12:00:00", "-1:00", "+1:00", "१२:००"] {
        assert!(minute_of_day(text).is_err(), "{text}");
    }
    for text in ["", "2026-03-01", "2026-03-01T22:00:00", "tomorrow", "9999-12-31T23:00:00Z"] {
        assert!(time(text).is_err(), "{text}");
    }
    assert!(Window::weekly(Vec::new(), 60, 60, None).unwrap_err().contains("\"24:00\""));
    assert!(Window::weekly(Vec::new(), DAY, 60, None).is_err());
    for name in ["Europe/Atlantis", "", "../passwd"] {
        assert_eq!(zone(name).err().as_deref(), Some("is no time zone of the IANA database"), "{name}");
    }
    // With the host's zone, whatever it is.
    assert!(Window::weekly(Vec::new(), 0, DAY, None).unwrap().span(at("2026-03-01T22:00:00Z")).is_some());
}

#[test]
fn zones_are_known_where_the_host_knows_none() {
    let bundled = TimeZoneDatabase::bundled();
    for name in ["Europe/Berlin", "America/New_York", "Asia/Seoul", "UTC"] {
        assert!(bundled.get(name).is_ok(), "{name}");
    }
}

#[test]
fn what_is_stored_reads_back() {
    for json in [
        r#"{"starts":"2026-03-01T21:00:00.5Z","ends":"2026-03-02T01:00:00Z"}"#,
        r#"{"days":["mon","sun"],"from":"22:00","to":"06:00","time_zone":"Europe/Berlin"}"#,
        r#"{"days":[],"from":"00:00","to":"24:00"}"#,
    ] {
        let window: Window = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&window).unwrap(), json);
        assert_eq!(window, window.clone());
    }
    for json in [r#"{"from":"22:00","to":"22:00"}"#, r#"{"starts":"x","ends":"y"}"#, "{}", r#"{"from":"99:99","to":"06:00"}"#] {
        assert!(serde_json::from_str::<Window>(json).is_err(), "{json}");
    }
}

#[test]
fn a_window_is_shown_as_it_is_written() {
    assert_eq!(
        weekly(&[Weekday::Sat, Weekday::Sun], "22:00", "06:00", "Europe/Berlin").to_string(),
        "sat, sun 22:00 to 06:00 Europe/Berlin"
    );
    assert_eq!(weekly(&[], "00:00", "24:00", "UTC").to_string(), "daily 00:00 to 24:00 UTC");
    let once = Window::once(at("2026-03-01T22:00:00+01:00"), at("2026-03-02T02:00:00+01:00")).unwrap();
    assert_eq!(once.to_string(), "2026-03-01T21:00:00Z to 2026-03-02T01:00:00Z");
}
