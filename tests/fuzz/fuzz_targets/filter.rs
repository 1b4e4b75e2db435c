//! Filters, and the events that they judge.

#![no_main]

use libfuzzer_sys::fuzz_target;
use message_hub::model::event::EventView;
use message_hub::model::filter::Filter;
use message_hub_fuzz::parts;
use prost::Message as _;

fuzz_target!(|input: &[u8]| {
    let parts = parts(input);
    let Some((encoded, events)) = parts.split_first() else { return };
    let Ok(filter) = Filter::parse(encoded) else { return };
    let again =
        Filter::parse(&filter.encode_to_vec()).expect("what was accepted is accepted again");
    assert_eq!(filter, again, "a filter reads differently the second time");
    let compiled = filter.compile().expect("what was accepted can be asked");
    for event in events {
        let judged = compiled.matches(event);
        if EventView::parse(event).is_ok() {
            judged.expect("a filter judges every event that was accepted");
        }
    }
});
