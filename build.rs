//! Generates the API types from `proto/`, without a `protoc`.
//!
//! Fields that hold an [`Event`] or an `EventBatch` become `bytes` in the generated Rust code (the
//! wire is the same), so that events travel through a node without being decoded and encoded again;
//! those that hold a `Filter` too, so that one that is nested without end is refused by name.
//! Reflection serves the descriptors as they are written.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    #[cfg(feature = "client")]
    generate()?;
    Ok(())
}

#[cfg(feature = "client")]
fn generate() -> Result<(), Box<dyn std::error::Error>> {
    use prost::Message;
    const FILES: [&str; 15] = [
        "messagehub/v1/event.proto",
        "messagehub/v1/topics.proto",
        "messagehub/v1/events.proto",
        "messagehub/v1/delivery.proto",
        "messagehub/v1/cluster.proto",
        "messagehub/v1/subscriptions.proto",
        "messagehub/v1/failures.proto",
        "messagehub/v1/quotas.proto",
        "messagehub/v1/services.proto",
        "messagehub/v1/handler.proto",
        "messagehub/v1/transactions.proto",
        "messagehub/v1/tracking.proto",
        "messagehub/v1/keys.proto",
        "messagehub/v1/schemas.proto",
        "messagehub/peer/v1/peer.proto",
    ];
    let mut set = protox::compile(FILES, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), set.encode_to_vec())?;
    for file in &mut set.file {
        for message in &mut file.message_type {
            make_events_opaque(message);
        }
    }
    tonic_prost_build::configure().bytes(".").compile_fds(set)?;
    Ok(())
}

#[cfg(feature = "client")]
fn make_events_opaque(message: &mut prost_types::DescriptorProto) {
    use prost_types::field_descriptor_proto::Type;
    const OPAQUE: [&str; 3] =
        [".messagehub.v1.Event", ".messagehub.v1.EventBatch", ".messagehub.v1.Filter"];
    for field in &mut message.field {
        if OPAQUE.contains(&field.type_name()) {
            field.type_name = None;
            field.set_type(Type::Bytes);
        }
    }
}
