//! The registry of schemas on real clusters: what is registered, what is refused and why, and what stays.

use message_hub::client::Client;
use message_hub::model::rejection::{Reason, Rejection};
use message_hub::proto::v1::{
    CheckSchemaRequest, Compatibility, GetSchemaRequest, RegisterSchemaRequest, Schema,
    SchemaDefinition, SchemaFile, SchemaFormat, SchemaReference, SchemaState,
    SetCompatibilityRequest, SetSchemaStateRequest, ValidateDataRequest,
};

use crate::delivery::client;
use crate::support::{Cluster, mhub_with_input};

const ORDER: &str = r#"{"type": "object", "properties": {"id": {"type": "integer"}, "note": {"type": "string"}},
    "required": ["id"], "additionalProperties": false}"#;
/// A field more, which may be absent.
const ORDER_MORE: &str = r#"{"type": "object", "properties": {"id": {"type": "integer"}, "note": {"type": "string"},
    "total": {"type": "number"}}, "required": ["id"], "additionalProperties": false}"#;
/// What was a number is a text.
const ORDER_OTHER: &str = r#"{"type": "object", "properties": {"id": {"type": "string"}, "note": {"type": "string"}},
    "required": ["id"], "additionalProperties": false}"#;

pub(crate) fn definition(format: SchemaFormat, files: &[(&str, &str)]) -> SchemaDefinition {
    let file =
        |(name, text): &(&str, &str)| SchemaFile { name: (*name).into(), text: (*text).into() };
    SchemaDefinition {
        format: format.into(),
        files: files.iter().map(file).collect(),
        references: Vec::new(),
    }
}

pub(crate) fn json(text: &str) -> SchemaDefinition {
    definition(SchemaFormat::Json, &[("main.json", text)])
}

pub(crate) async fn register(
    client: &Client,
    subject: &str,
    definition: SchemaDefinition,
) -> Result<Schema, Rejection> {
    let (subject, definition) = (subject.to_owned(), Some(definition));
    client
        .register_schema(RegisterSchemaRequest { subject, definition, ..Default::default() })
        .await
}

async fn refusal(client: &Client, definition: SchemaDefinition) -> Rejection {
    register(client, "bad", definition).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_follow_each_other_as_their_subject_says_also_after_a_leader_is_killed() {
    let mut cluster = Cluster::start(3, &[]);
    let client = client(&cluster);
    assert_eq!(register(&client, "order", json(ORDER)).await.unwrap().version, 1);
    let again = json(&format!("  {ORDER}"));
    assert_eq!(register(&client, "order", again).await.unwrap().version, 1, "the same schema");
    assert_eq!(register(&client, "order", json(ORDER_MORE)).await.unwrap().version, 2);
    let refused = register(&client, "order", json(ORDER_OTHER)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::SchemaIncompatible);
    assert!(refused.message.contains("/properties/id"), "{refused}");
    assert!(
        refused.message.contains("version 1") && refused.message.contains("version 2"),
        "{refused}"
    );

    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    cluster.nodes[leader].start();
    cluster.await_serving();
    for node in &cluster.nodes {
        let client = Client::new([node.endpoint()]).unwrap();
        let newest = GetSchemaRequest { subject: "order".into(), ..Default::default() };
        assert_eq!(client.schema(newest).await.unwrap().version, 2);
    }
    let (subject, compatibility) = ("order".to_owned(), Compatibility::None.into());
    let set = SetCompatibilityRequest { subject, compatibility, ..Default::default() };
    client.set_compatibility(set).await.unwrap();
    assert_eq!(register(&client, "order", json(ORDER_OTHER)).await.unwrap().version, 3);
    let validate = async |version, data: &str| {
        let (subject, data) = ("order".to_owned(), data.to_owned().into());
        let request = ValidateDataRequest { subject, version, data, ..Default::default() };
        client.validate_data(request).await.unwrap()
    };
    assert!(validate(1, r#"{"id": 1}"#).await.violations.is_empty());
    let bad = validate(0, r#"{"id": 1, "note": 2, "x": 3}"#).await;
    let places: Vec<_> = bad.violations.iter().map(|v| v.place.as_str()).collect();
    assert_eq!(bad.version, 3);
    assert!(places.contains(&"/id") && places.contains(&"/note") && places.len() == 3, "{bad:?}");
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_schema_is_refused_with_every_problem_and_its_place() {
    let cluster = Cluster::start(1, &[]);
    let client = client(&cluster);
    for (text, says) in [
        (r#"{"$ref": "https://example.com/x.json"}"#, "/$ref"),
        (r#"{"pattern": "(?<=a)b"}"#, "/pattern"),
        (
            r##"{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}"##,
            "/$defs/b",
        ),
        (r#"{"type": "nonsense"}"#, "/type"),
        ("{", "line 1"),
    ] {
        let refused = refusal(&client, json(text)).await;
        assert_eq!(refused.reason, Reason::SchemaMalformed, "{text}: {refused}");
        assert!(refused.message.contains(says), "{text}: {refused}");
    }
    // A recursive one is fine, a pattern that others choke on is linear.
    let tree = r##"{"type": "object", "properties": {"children": {"items": {"$ref": "#"}},
        "name": {"type": "string", "pattern": "(a+)+$"}}}"##;
    assert_eq!(register(&client, "tree", json(tree)).await.unwrap().version, 1);
    let data = format!(r#"{{"name": "{}!"}}"#, "a".repeat(100_000)).into();
    let request = ValidateDataRequest { subject: "tree".into(), data, ..Default::default() };
    assert_eq!(client.validate_data(request).await.unwrap().violations[0].place, "/name");
    // Too large, by far and by a little.
    let large = |bytes| json(&format!(r#"{{"description": "{}"}}"#, "x".repeat(bytes)));
    assert_eq!(refusal(&client, large(300 << 10)).await.reason, Reason::SchemaMalformed);
    let refused = refusal(&client, large(10 << 20)).await;
    assert!(refused.message.contains("bytes") || refused.message.contains("large"), "{refused}");
    let importing = r#"syntax = "proto3"; import "gone.proto"; message A { string b = 1; }"#;
    let refused =
        refusal(&client, definition(SchemaFormat::Protobuf, &[("a.proto", importing)])).await;
    assert_eq!(refused.reason, Reason::SchemaMalformed);
    assert!(refused.message.contains("gone.proto"), "{refused}");
    let refused =
        refusal(&client, definition(SchemaFormat::Avro, &[("a.avsc", r#""gone""#)])).await;
    assert_eq!(refused.reason, Reason::SchemaMalformed);
    for subject in ["", "a b", &"x".repeat(257)] {
        let refused = register(&client, subject, json("{}")).await.unwrap_err();
        assert_eq!(refused.reason, Reason::InvalidName);
    }
    let unknown = GetSchemaRequest { subject: "unknown".into(), ..Default::default() };
    assert_eq!(client.schema(unknown).await.unwrap_err().reason, Reason::SchemaNotFound);
}

/// A refusal that counts at least so many, and lists some of them.
fn counts(refused: &Rejection, reason: Reason, at_least: usize) {
    assert_eq!(refused.reason, reason, "{refused}");
    let failing: usize = refused.fact("failing").unwrap().parse().unwrap();
    assert!(failing >= at_least, "{refused}");
    assert!(refused.message.contains(" more; `mhub schema check` tells more"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_arrives_however_much_is_wrong() {
    const VERSIONS: u32 = 20;
    let cluster = Cluster::start(1, &[]);
    let client = client(&cluster);
    let of_type = |title: u32, kind: &str| {
        let fields: serde_json::Map<_, _> = (0..5)
            .map(|n| (format!("a_field_with_a_long_name_{n}"), serde_json::json!({"type": kind})))
            .collect();
        let title = title.to_string();
        serde_json::json!({"title": title, "type": "object", "properties": fields}).to_string()
    };
    let rule = async |compatibility: Compatibility| {
        let (subject, compatibility) = ("order".to_owned(), compatibility.into());
        let set = SetCompatibilityRequest { subject, compatibility, ..Default::default() };
        client.set_compatibility(set).await.unwrap();
    };
    rule(Compatibility::None).await;
    for n in 1..=VERSIONS {
        let version = register(&client, "order", json(&of_type(n, "string"))).await.unwrap();
        assert_eq!(version.version, n);
    }
    rule(Compatibility::BackwardTransitive).await;
    let other = of_type(0, "integer");
    let refused = register(&client, "order", json(&other)).await.unwrap_err();
    counts(&refused, Reason::SchemaIncompatible, 100);
    assert_eq!(refused.fact("versions"), Some("1-20"), "{refused}");
    // One that is not asked to fit says it all.
    let run = |args: &[&str]| mhub_with_input(&cluster.nodes[0].endpoint(), args, Some(&other));
    let args = ["order", "-", "--format", "json"];
    run(&[&["schema", "register"][..], &args].concat()).fails(4, "SCHEMA_INCOMPATIBLE");
    let told = run(&[&["schema", "check", "-o", "json"][..], &args].concat());
    told.fails(4, "");
    let told: serde_json::Value = serde_json::from_str(&told.stdout()).unwrap();
    let all = told["failing"].as_array().unwrap().len().to_string();
    assert_eq!(refused.fact("failing"), Some(all.as_str()), "{refused}");

    let bad: serde_json::Map<_, _> =
        (0..100).map(|n| (n.to_string(), serde_json::json!({"type": n}))).collect();
    let bad = serde_json::json!({"properties": bad}).to_string();
    counts(&refusal(&client, json(&bad)).await, Reason::SchemaMalformed, 100);
}

/// What money is, and an order that refers to it.
fn shop() -> (SchemaDefinition, SchemaDefinition) {
    let money = r#"syntax = "proto3"; package shop; message Money { int64 cents = 1; }"#;
    let money = definition(SchemaFormat::Protobuf, &[("money.proto", money)]);
    let order = r#"syntax = "proto3"; package shop; import "money.proto"; message Order { Money total = 1; }"#;
    let mut order = definition(SchemaFormat::Protobuf, &[("order.proto", order)]);
    let name = "money.proto".to_owned();
    order.references = vec![SchemaReference { name, subject: "money".into(), version: 1 }];
    (money, order)
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_has_not_heard_of_yet_is_no_reason_to_refuse() {
    use std::time::Duration;

    use message_hub::client::ClientOptions;

    use crate::support::{SERVING_WITHIN, poll};
    let mut cluster = Cluster::start(3, &[]);
    let behind = (cluster.leader() + 1) % 3;
    cluster.nodes[behind].kill();
    // It applies what is decided as long as there is such a file.
    let go = cluster.nodes[behind].data_dir().with_file_name("go");
    std::fs::write(&go, "").unwrap();
    let hold = format!("apply::before_write={}", go.display());
    cluster.nodes[behind].set("MHUB_TEST_HOLD_AT", hold);
    cluster.nodes[behind].start();
    cluster.await_answering(behind);
    cluster.mhub(behind, &["topic", "ls"]).succeeds();
    std::fs::remove_file(&go).unwrap();
    let others = (0..3).filter(|index| *index != behind).map(|i| cluster.nodes[i].endpoint());
    let (money, order) = shop();
    let others: Vec<_> = others.collect();
    register(&Client::new(others.clone()).unwrap(), "money", money).await.unwrap();
    let of_it = cluster.nodes[behind].endpoint();
    let first = Client::new([vec![of_it.clone()], others].concat()).unwrap();
    assert_eq!(register(&first, "order", order.clone()).await.unwrap().version, 1);
    // Also as the leader it does not refuse before it knows all.
    let id = cluster.nodes[behind].id.to_string();
    cluster.admin(&["cluster", "transfer-leader", &id]).succeeds();
    assert!(poll(SERVING_WITHIN, || cluster.leader() == behind), "it does not lead");
    let options = ClientOptions { pinned: true, ..ClientOptions::default() };
    let pinned = Client::with_options([of_it], options).unwrap();
    let mut registered = std::pin::pin!(register(&pinned, "late", order));
    let early = tokio::time::timeout(Duration::from_millis(500), &mut registered).await;
    assert!(early.is_err(), "{early:?}");
    std::fs::write(&go, "").unwrap();
    assert_eq!(registered.await.unwrap().version, 1);
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_gets_its_first_answer_whatever_came_since() {
    let cluster = Cluster::start(1, &[]);
    let client = client(&cluster);
    let new_id = || uuid::Uuid::new_v4().to_string();
    let register_by = async |text: &str, request_id: String| {
        let (subject, definition) = ("n".to_owned(), Some(json(text)));
        let request = RegisterSchemaRequest { subject, definition, request_id };
        client.register_schema(request).await.map(|schema| schema.version)
    };
    let undo_by = async |version, request_id: String| {
        let (subject, state) = ("n".to_owned(), SchemaState::Active.into());
        let request = SetSchemaStateRequest { subject, version, state, request_id };
        client.set_schema_state(request).await.map(|schema| schema.version)
    };
    let remove = |version| {
        cluster.admin(&["schema", "rm", "n", version, "--yes"]).succeeds();
    };
    let (integer, text) = (r#"{"type": "integer"}"#, r#"{"type": "string"}"#);
    let (registered, undone) = (new_id(), new_id());
    assert_eq!(register_by(integer, registered.clone()).await, Ok(1));
    remove("1");
    assert_eq!(undo_by(1, undone.clone()).await, Ok(1));
    remove("1");
    assert_eq!(register_by(text, new_id()).await, Ok(2));
    // By now neither would be taken.
    let refused = [register_by(integer, new_id()).await, undo_by(1, new_id()).await];
    let refused = refused.map(|refused| refused.unwrap_err().reason);
    assert_eq!(refused, [Reason::SchemaIncompatible; 2]);
    assert_eq!(register_by(integer, registered).await, Ok(1));
    assert_eq!(undo_by(1, undone).await, Ok(1));
    let listed = cluster.admin(&["schema", "ls", "n", "-o", "json"]).json();
    let states: Vec<_> = listed.as_array().unwrap().iter().map(|v| v["state"].clone()).collect();
    assert_eq!(states, ["deleted", "active"], "nothing was done again");
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_refer_to_registered_ones_and_to_nothing_else() {
    let cluster = Cluster::start(1, &[]);
    let client = client(&cluster);
    let (money, order) = shop();
    let refused = register(&client, "order", order.clone()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::SchemaNotFound);
    register(&client, "money", money).await.unwrap();
    register(&client, "order", order).await.unwrap();
    // One cent, then a message that ends too early.
    for (data, valid) in [(&[0x0a, 2, 8, 1][..], true), (&[0x0a, 9, 8][..], false)] {
        let data = data.to_vec().into();
        let request = ValidateDataRequest { subject: "order".into(), data, ..Default::default() };
        assert_eq!(client.validate_data(request).await.unwrap().violations.is_empty(), valid);
    }
    cluster.admin(&["schema", "rm", "money", "1", "--yes"]).fails(4, "SCHEMA_IN_USE");
    cluster.admin(&["schema", "rm", "order", "1", "--yes"]).succeeds();
    cluster.admin(&["schema", "rm", "money", "1", "--yes"]).succeeds();
    let found = cluster.admin(&["schema", "get", "order", "1", "-o", "json"]).json();
    assert_eq!(
        (&found["state"], &found["references"][0]["subject"]),
        (&"deleted".into(), &"money".into())
    );
    cluster.admin(&["schema", "deprecate", "order", "1", "--undo"]).fails(3, "SCHEMA_NOT_FOUND");
    // Nothing new refers to what is deleted, and a check says so.
    let reference =
        vec![SchemaReference { name: "money.proto".into(), subject: "money".into(), version: 1 }];
    let late = r#"syntax = "proto3"; import "money.proto"; message Late { shop.Money total = 1; }"#;
    let mut late = definition(SchemaFormat::Protobuf, &[("late.proto", late)]);
    late.references = reference;
    let check =
        CheckSchemaRequest { subject: "late".into(), definition: Some(late), ..Default::default() };
    assert_eq!(client.check_schema(check).await.unwrap_err().reason, Reason::SchemaNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_version_comes_back_only_where_it_fits() {
    let cluster = Cluster::start(1, &[]);
    let client = client(&cluster);
    let undo = |version| cluster.admin(&["schema", "deprecate", "n", version, "--undo"]);
    let remove = |version| {
        cluster.admin(&["schema", "rm", "n", version, "--yes"]).succeeds();
    };
    register(&client, "n", json(r#"{"type": "integer"}"#)).await.unwrap();
    remove("1");
    register(&client, "n", json(r#"{"type": "string"}"#)).await.unwrap();
    undo("1").fails(4, "readers with version 2 cannot read it");
    remove("2");
    undo("1").succeeds();
    undo("2").fails(4, "readers with it cannot read version 1");
    register(&client, "n", json(r#"{"type": "number"}"#)).await.unwrap();
    remove("1");
    undo("1").succeeds();
}

#[test]
fn the_command_line_names_protobuf_files_as_imports_do() {
    const MONEY: &str = r#"syntax = "proto3"; package shop; message Money { int64 cents = 1; }"#;
    let order = |import: &str| {
        format!(
            r#"syntax = "proto3"; package shop; import "{import}"; message Order {{ Money total = 1; }}"#
        )
    };
    let cluster = Cluster::start(1, &[]);
    // The same files in two places.
    let places = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let path =
        |place: usize, name: &str| places[place].path().join(name).to_str().unwrap().to_owned();
    for place in 0..2 {
        std::fs::create_dir_all(path(place, "shop")).unwrap();
        std::fs::write(path(place, "shop/money.proto"), MONEY).unwrap();
        std::fs::write(path(place, "shop/order.proto"), order("money.proto")).unwrap();
        std::fs::write(path(place, "shop/nested.proto"), order("shop/money.proto")).unwrap();
    }
    let register = |subject: &str, files: &[String], more: &[&str]| {
        let files: Vec<_> = files.iter().map(String::as_str).collect();
        cluster.admin(&[&["schema", "register", subject, "-o", "json"], &files[..], more].concat())
    };
    let names = |subject: &str| {
        let found = cluster.admin(&["schema", "get", subject, "-o", "json"]).json();
        let files = found["files"].as_array().unwrap().iter();
        files.map(|file| file["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for place in 0..2 {
        // By the folder of the main file.
        let files = [path(place, "shop/order.proto"), path(place, "shop/../shop/./money.proto")];
        let version = register("order", &files, &[]).json()["version"].clone();
        assert_eq!(version, 1, "from place {place}");
        // By a folder above it.
        let files = [path(place, "shop/nested.proto"), path(place, "shop/money.proto")];
        let folder = path(place, "");
        let version =
            register("nested", &files, &["--proto-path", &folder]).json()["version"].clone();
        assert_eq!(version, 1, "from place {place}");
        register("nested", &files, &[]).fails(2, "SCHEMA_MALFORMED");
    }
    assert_eq!(names("order"), ["order.proto", "money.proto"]);
    assert_eq!(names("nested"), ["shop/nested.proto", "shop/money.proto"]);
    let elsewhere = [path(0, "shop/order.proto"), path(1, "shop/money.proto")];
    register("order", &elsewhere, &[]).fails(2, "--proto-path");
}

#[test]
fn the_command_line_shows_it() {
    let cluster = Cluster::start(1, &[]);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let endpoint = cluster.nodes[0].endpoint();
    let (old, new) = (file("order.json", ORDER), file("more.json", ORDER_MORE));
    let other = file("other.json", ORDER_OTHER);
    cluster.admin(&["schema", "register", "order", &old]).succeeds();
    cluster.admin(&["schema", "check", "order", &new]).succeeds();
    let told = cluster.admin(&["schema", "check", "order", &other]);
    assert!(told.stdout().contains("/properties/id"), "{}", told.stdout());
    told.fails(4, "");
    // A field that is gone again is no trouble for who reads on, but for who wrote it.
    let full = ["schema", "check", "order", &new, "--compatibility", "forward"];
    cluster.admin(&full).fails(4, "");
    cluster.admin(&["schema", "register", "order", &new]).succeeds();
    let diff = cluster.admin(&["schema", "diff", "order", "1", "-o", "json"]).json();
    assert_eq!((&diff[0]["change"], diff.as_array().unwrap().len()), (&"added".into(), 1));
    assert!(diff[0]["place"].as_str().unwrap().contains("total"), "{diff}");
    let validate =
        |data: &str| mhub_with_input(&endpoint, &["schema", "validate", "order", "-"], Some(data));
    validate(r#"{"id": 7, "total": 1.5}"#).succeeds();
    let told = validate(r#"{"total": "x"}"#);
    assert!(told.stdout().contains("/total"), "{}", told.stdout());
    told.fails(1, "");
    let shown = cluster.admin(&["schema", "get", "order"]).succeeds().stdout();
    assert!(shown.contains("\"total\""), "{shown}");
    cluster.admin(&["schema", "config", "order", "--compatibility", "full"]).succeeds();
    cluster.admin(&["schema", "deprecate", "order", "1"]).succeeds();
    let listed = cluster.admin(&["schema", "ls", "order", "-o", "json"]).json();
    assert_eq!((&listed[0]["state"], &listed[1]["judges"]), (&"deprecated".into(), &true.into()));
    let subjects = cluster.admin(&["schema", "ls", "-o", "json"]).json();
    assert_eq!(subjects[0]["compatibility"], "full");
    cluster.admin(&["schema", "register", "order", "/nowhere.json"]).fails(2, "/nowhere.json");
    cluster.admin(&["schema", "get", "unknown"]).fails(3, "SCHEMA_NOT_FOUND");
}
