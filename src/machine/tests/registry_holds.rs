//! Who is held: services that wait for what they require.

use super::registry_feed::Hub;

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
