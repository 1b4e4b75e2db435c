//! `mhub service register`.

use std::collections::HashMap;
use std::pin::pin;

use super::output::{self, Output};
use super::service::one;
use super::service_config::{change, dependency, failover};
use super::service_print::{instance, summary, weight};
use super::value::duration;
use super::{Done, Failure, key_value, stop};
use crate::client::{Client, ServiceHandle, ServiceNews};
use crate::model::rejection::{Exit, Reason};
use crate::proto::v1::{
    Address, Dependency, Failover, GetServiceRequest, InstanceSpec, PutServiceRequest,
    RegisterInstancesRequest, Service,
};

#[derive(Debug, clap::Args)]
pub(super) struct RegisterArgs {
    /// The service.
    name: String,
    /// A setting of the service; may be given many times, the others stay.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    config: Vec<(String, String)>,
    /// What it needs: SERVICE, SERVICE@VERSIONS, with a ? at the end when it is ready without. Those
    /// that are given replace the old ones.
    #[arg(long, value_name = "SERVICE[@VERSIONS][?]", value_parser = dependency)]
    depends: Vec<Dependency>,
    /// It needs nothing any more.
    #[arg(long, conflicts_with = "depends")]
    no_depends: bool,
    /// Where to go when no instance is healthy; may be given many times, in this order. Those that are given
    /// replace the old ones.
    #[arg(long, value_name = "SERVICE|zone:ZONE", value_parser = failover)]
    failover: Vec<Failover>,
    /// There is nowhere else to go any more.
    #[arg(long, conflicts_with = "failover")]
    no_failover: bool,
    /// Only if the service has this revision.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    if_revision: u64,
    /// An instance to register.
    #[arg(long, value_name = "ID", requires = "address")]
    instance: Option<String>,
    /// Where it answers; may be given many times.
    #[arg(long, value_name = "PROTOCOL=HOST:PORT", value_parser = key_value, requires = "instance")]
    address: Vec<(String, String)>,
    /// Where it runs.
    #[arg(long, default_value = "", requires = "instance")]
    zone: String,
    /// Its version.
    #[arg(long, default_value = "", requires = "instance")]
    version: String,
    /// Its share among the others, 0.001 to 1000.
    #[arg(long, value_parser = weight, requires = "instance")]
    weight: Option<u64>,
    /// Something else to know of it; may be given many times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value, requires = "instance")]
    meta: Vec<(String, String)>,
    /// How long its renewals last.
    #[arg(long, value_parser = duration, requires = "instance")]
    ttl: Option<u64>,
    /// A secret: only who names it changes the instance.
    #[arg(long, env = "MHUB_OWNER", default_value = "", hide_env_values = true)]
    owner: String,
    /// Renew it until ctrl-C, then deregister it.
    #[arg(long, requires = "instance")]
    keep: bool,
}

impl RegisterArgs {
    /// Whether settings of the service are named.
    fn changes_settings(&self) -> bool {
        let named = [self.config.is_empty(), self.depends.is_empty(), self.failover.is_empty()];
        named.contains(&false) || self.no_depends || self.no_failover
    }
}

pub(super) async fn register(client: &Client, args: RegisterArgs, output: Output) -> Done {
    let mut registered = None;
    if args.changes_settings() || args.instance.is_none() {
        registered = Some(put(client, &args).await?);
    }
    let Some(id) = args.instance else {
        if let Some(service) = registered {
            output::item(output, &summary(&service))?;
        }
        return Ok(Exit::Ok);
    };
    let address = |(protocol, address)| Address { protocol, address };
    let spec = InstanceSpec {
        service: args.name,
        id,
        addresses: args.address.into_iter().map(address).collect(),
        zone: args.zone,
        version: args.version,
        weight_milli: args.weight,
        metadata: args.meta.into_iter().collect::<HashMap<_, _>>(),
        ttl_ms: args.ttl.unwrap_or(0),
        owner: args.owner,
        process: String::new(),
    };
    if args.keep {
        return keep(client, spec, output).await;
    }
    let request = RegisterInstancesRequest { instances: vec![spec] };
    let registered = one(client.register_instances(request).await?)?;
    output::item(output, &instance(&registered))?;
    Ok(Exit::Ok)
}

/// Changes a service's settings, or registers it.
async fn put(client: &Client, args: &RegisterArgs) -> Result<Service, Failure> {
    let name = args.name.clone();
    let request = GetServiceRequest { name, page_size: 1, ..GetServiceRequest::default() };
    let known = match client.service_page(request).await {
        Ok(found) => found.service.unwrap_or_default(),
        Err(rejection) if rejection.reason == Reason::ServiceNotFound => Service::default(),
        Err(rejection) => return Err(rejection.into()),
    };
    let mut config = known.config.unwrap_or_default();
    change(&mut config, args.config.clone())?;
    if args.no_depends || !args.depends.is_empty() {
        config.dependencies.clone_from(&args.depends);
    }
    if args.no_failover || !args.failover.is_empty() {
        config.failover.clone_from(&args.failover);
    }
    let if_revision = if args.if_revision > 0 { args.if_revision } else { known.revision };
    let (name, request_id) = (args.name.clone(), String::new());
    let request = PutServiceRequest { name, config: Some(config), if_revision, request_id };
    Ok(client.put_service(request).await?)
}

/// Keeps an instance registered until somebody asks for the end.
async fn keep(client: &Client, spec: InstanceSpec, output: Output) -> Done {
    let mut handle = ServiceHandle::register(client, vec![spec]).await?;
    handle.instances().iter().try_for_each(|i| output::item(output, &instance(i)))?;
    let mut stop = pin!(stop::asked());
    loop {
        tokio::select! {
            news = handle.news() => match news {
                Some(ServiceNews::Lost { service, id }) => {
                    output::complain(&format!("{service} {id} was given up; registering it again"));
                }
                Some(ServiceNews::Registered(registered)) => {
                    output::complain("registered again");
                    output::item(output, &instance(&registered))?;
                }
                Some(ServiceNews::Refused(rejection)) => {
                    output::complain(&format!("not registered again: {rejection}"));
                }
                None => return Ok(Exit::Error),
            },
            stopped = &mut stop => {
                stopped?;
                handle.deregister().await?;
                return Ok(Exit::Ok);
            }
        }
    }
}
