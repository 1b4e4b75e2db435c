//! Who is held: instances that flap, services that wait for what they require.

use super::registry_feed::Hub;
use crate::machine::registry::query as services;

fn held_until(hub: &Hub) -> u64 {
    services::instances(&hub.kv, "db").unwrap()[0].held_until_ms
}

#[test]
fn who_is_let_go_does_not_flap_by_that_and_is_held_twice_as_long_by_the_next_change() {
    let mut hub = Hub::default();
    hub.register("db", "i");
    for n in 0..5 {
        hub.renews("db", "i", n % 2 == 1);
    }
    let held = held_until(&hub);
    assert_eq!(held, hub.now + 30_000);
    hub.renews("db", "i", true);
    hub.told();
    hub.tick_at(held);
    let let_go = ["instance.passing db/i", "instance.hold_ended db/i", "service.recovered db"];
    assert_eq!((hub.told(), held_until(&hub)), (let_go.map(str::to_owned).to_vec(), 0));
    // It changes by itself.
    hub.renews("db", "i", false);
    assert_eq!(hub.told()[1..], ["instance.hold_begun db/i", "service.down db"]);
    let again = held_until(&hub);
    assert_eq!(again, held + 60_000);
    // It was silent until now that it answers again: that is a change, too.
    hub.now = again;
    hub.renews("db", "i", true);
    assert_eq!(hub.told(), ["instance.hold_begun db/i"]);
    let third = held_until(&hub);
    assert_eq!(third, again + 120_000);
    hub.tick_at(third);
    assert_eq!(hub.told(), let_go);
}

#[test]
fn who_waits_for_what_it_requires_is_called_in_nobodys_place() {
    let mut hub = Hub::default();
    hub.put("shop", &[], &["spare", "last"]);
    hub.hold("spare", &["vault"]);
    for service in ["shop", "spare", "last"] {
        hub.register(service, "i");
    }
    hub.lead();
    hub.renews("shop", "i", false);
    hub.lead();
    assert_eq!(hub.service("shop").failed_over_to, "last");
    hub.register("vault", "i");
    hub.lead();
    assert_eq!(hub.service("shop").failed_over_to, "spare");
}
