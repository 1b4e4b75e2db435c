use super::*;

fn limited(events: u64, bytes: u64) -> QuotaLimits {
    QuotaLimits {
        publish_events_per_s: events,
        publish_bytes_per_s: bytes,
        ..QuotaLimits::default()
    }
}

fn of(events: u64) -> (u64, u64) {
    (events, events * 10)
}

#[test]
fn a_service_gets_its_rate_and_a_second_in_advance() {
    let (quotas, start) = (Quotas::default(), clock::now());
    assert_eq!(quotas.admit("shop", ["t"], of(1_000_000), start), Ok(()), "no quota at all");
    quotas.refresh(vec![("shop".to_owned(), limited(10, 0))], start);
    let at = |ms: u64| start + Duration::from_millis(ms);
    for _ in 0..10 {
        assert_eq!(quotas.admit("shop", ["t"], of(1), start), Ok(()));
    }
    let refused = quotas.admit("shop", ["t"], of(1), start).unwrap_err();
    assert_eq!(refused.reason, Reason::QuotaExceeded);
    assert_eq!(refused.retry_delay_ms(), Some(100));
    assert_eq!(quotas.admit("other", ["t"], of(100), start), Ok(()));
    assert_eq!(quotas.admit("shop", ["t"], of(1), at(100)), Ok(()));
    assert!(quotas.admit("shop", ["t"], of(1), at(199)).is_err());
    // Nothing is saved up beyond a second.
    let later = (0..100).filter(|_| quotas.admit("shop", ["t"], of(1), at(60_000)).is_ok()).count();
    assert_eq!(later, 10);
}

#[test]
fn a_large_call_is_taken_whole_and_paid_for() {
    let (quotas, start) = (Quotas::default(), clock::now());
    quotas.refresh(vec![("shop".to_owned(), limited(0, 100))], start);
    let at = |ms: u64| start + Duration::from_millis(ms);
    assert_eq!(quotas.admit("shop", ["t"], of(30), start), Ok(()), "300 bytes, 100 a second");
    let refused = quotas.admit("shop", ["t"], of(1), start).unwrap_err();
    assert_eq!(refused.retry_delay_ms(), Some(2100));
    assert!(quotas.admit("shop", ["t"], of(1), at(2099)).is_err());
    assert_eq!(quotas.admit("shop", ["t"], of(1), at(2100)), Ok(()));
}

#[test]
fn a_refusal_takes_nothing() {
    let (quotas, start) = (Quotas::default(), clock::now());
    quotas.refresh(vec![("shop".to_owned(), limited(1000, 10))], start);
    assert_eq!(quotas.admit("shop", ["t"], of(1), start), Ok(()));
    for _ in 0..5000 {
        assert!(quotas.admit("shop", ["t"], of(1), start).is_err());
    }
    let service = quotas.known().services["shop"].events;
    assert!(service.full_at - start < Duration::from_millis(2));
}

#[test]
fn what_is_published_at_once_is_admitted_as_a_whole() {
    let (quotas, start) = (Quotas::default(), clock::now());
    let limits = QuotaLimits { backlog_bytes: 100, ..limited(10, 0) };
    quotas.refresh(vec![("shop".to_owned(), limits)], start);
    assert_eq!(
        quotas.admit("shop", ["t", "u"], of(16), start),
        Ok(()),
        "more than a second's worth"
    );
    assert!(quotas.admit("shop", ["t", "u"], of(2), start).is_err());
    let later = start + Duration::from_secs(2);
    for topic in ["t", "u"] {
        assert!(quotas.known().topics.contains_key(topic), "its backlog is looked at");
    }
    quotas.known().topics.get_mut("u").unwrap().backlog = 101;
    assert!(quotas.admit("shop", ["t", "u"], of(10), later).is_err());
    assert_eq!(quotas.admit("shop", ["t"], of(10), later), Ok(()), "nothing was taken");
}

#[test]
fn a_changed_limit_starts_full_and_an_equal_one_goes_on() {
    let (quotas, start) = (Quotas::default(), clock::now());
    let shop = |events| vec![("shop".to_owned(), limited(events, 0))];
    quotas.refresh(shop(1), start);
    assert_eq!(quotas.admit("shop", ["t"], of(1), start), Ok(()));
    quotas.refresh(shop(1), start);
    assert!(quotas.admit("shop", ["t"], of(1), start).is_err());
    quotas.refresh(shop(2), start);
    assert_eq!(quotas.admit("shop", ["t"], of(1), start), Ok(()));
    quotas.refresh(Vec::new(), start);
    assert_eq!(quotas.admit("shop", ["t"], of(99), start), Ok(()));
}

#[test]
fn a_backlog_holds_publishing_up_until_it_is_worked_off() {
    let (quotas, start) = (Quotas::default(), clock::now());
    let limits = QuotaLimits { backlog_bytes: 100, ..QuotaLimits::default() };
    quotas.refresh(vec![("shop".to_owned(), limits)], start);
    assert_eq!(quotas.admit("shop", ["t"], of(1), start), Ok(()));
    let set = |bytes| quotas.known().topics.get_mut("t").unwrap().backlog = bytes;
    set(101);
    let refused = quotas.admit("shop", ["t"], of(1), start).unwrap_err();
    assert_eq!((refused.reason, refused.retry_delay_ms()), (Reason::QuotaExceeded, Some(1000)));
    assert_eq!(quotas.admit("shop", ["u"], of(1), start), Ok(()), "another topic");
    set(100);
    assert_eq!(quotas.admit("shop", ["t"], of(1), start), Ok(()));
    quotas.refresh(vec![("shop".to_owned(), limits)], start + Duration::from_secs(61));
    assert!(quotas.known().topics.is_empty(), "nobody publishes any more");
}

#[test]
fn topics_that_do_not_exist_are_forgotten_and_too_many_are_not_looked_at() {
    let (quotas, start) = (Quotas::default(), clock::now());
    let limits = QuotaLimits { backlog_bytes: 100, ..QuotaLimits::default() };
    quotas.refresh(vec![("shop".to_owned(), limits)], start);
    for n in 0..=BACKLOG_TOPICS_MAX {
        assert_eq!(quotas.admit("shop", [n.to_string().as_str()], of(1), start), Ok(()));
    }
    assert_eq!(quotas.known().topics.len(), BACKLOG_TOPICS_MAX);
    let looked_at: Vec<String> = (1..BACKLOG_TOPICS_MAX).map(|n| n.to_string()).collect();
    quotas.backlogs(&looked_at, &BTreeMap::from([("5".to_owned(), 101)]));
    assert_eq!(quotas.known().topics.len(), 2, "the first one was not looked at");
    assert!(quotas.admit("shop", ["5"], of(1), start).is_err());
}

#[test]
fn a_limit_that_is_hit_is_told_once_a_minute() {
    let (quotas, start) = (Quotas::default(), clock::now());
    quotas.refresh(vec![("shop".to_owned(), limited(1, 0))], start);
    let hit = |at| {
        (0..5).for_each(|_| drop(quotas.admit("shop", ["t"], of(5), at)));
        quotas.hit("gone", Limit::InFlight);
        quotas.notices(at)
    };
    let told = hit(start);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].about.as_str(), told[0].value), ("shop", 1));
    assert_eq!(told[0].limit, "publish_events_per_s");
    assert!(hit(start + Duration::from_secs(30)).is_empty());
    assert_eq!(hit(start + Duration::from_secs(61)).len(), 1);
}
