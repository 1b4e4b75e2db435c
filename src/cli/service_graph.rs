//! Dependencies of services for people: trees, chains of causes, graphs.

use serde_json::{Value, json};

use super::output::{self, Output};
use super::service_config::print_dependency;
use super::{Done, Failure};
use crate::client::Client;
use crate::model::rejection::Exit;
use crate::model::rejection::Reason;
use crate::proto::v1::{
    Dependency, DependencyEdge, DependencyNode, GetDependenciesRequest, GetReadinessRequest, Lack,
    Readiness, ReadinessCause,
};

fn lack(node: &DependencyNode) -> String {
    print_lack(node.lack(), &node.versions, node.more_versions)
}

fn print_lack(lack: Lack, versions: &[String], more: bool) -> String {
    match lack {
        Lack::Unspecified => "ready".to_owned(),
        Lack::Missing => "missing".to_owned(),
        Lack::Unhealthy => "no healthy instance".to_owned(),
        Lack::Incompatible => only(versions, more),
        Lack::NotReady => "not ready".to_owned(),
        Lack::ShutOff => "shut off by breakers".to_owned(),
    }
}

/// Which versions there are, where none of them will do, and that there are more.
fn only(versions: &[String], more: bool) -> String {
    let told: Vec<_> = versions.iter().map(String::as_str).filter(|v| !v.is_empty()).collect();
    if told.is_empty() {
        return "only instances without a version".to_owned();
    }
    let silent = if told.len() < versions.len() { ", and some without" } else { "" };
    let others = if more { ", and others" } else { "" };
    format!("only versions {}{others}{silent}", told.join(", "))
}

/// The chain of services to one that is the cause, and what is wrong with that.
pub(super) fn cause(cause: &ReadinessCause) -> String {
    let lack = print_lack(cause.lack(), &cause.versions, cause.more_versions);
    format!("{}: {lack}", cause.services.join(" -> "))
}

fn declared(node: &DependencyNode) -> String {
    let (service, requirement) = (node.service.clone(), node.requirement.clone());
    print_dependency(&Dependency { service, requirement, optional: node.optional })
}

/// What depends on what: of a service both ways, or of all.
pub(super) async fn deps(
    client: &Client,
    name: Option<String>,
    as_dot: bool,
    output: Output,
) -> Done {
    let of = name.clone().unwrap_or_default();
    let found =
        client.dependencies(GetDependenciesRequest { name: of, ..Default::default() }).await?;
    if as_dot {
        dot(&found.edges)?;
        return Ok(Exit::Ok);
    }
    match (output, name) {
        (Output::Table, Some(name)) => {
            let request = GetReadinessRequest { name: name.clone(), options: None };
            match client.readiness(request).await {
                Ok(readiness) => tree(&readiness.tree.unwrap_or_default())?,
                Err(rejection) if rejection.reason == Reason::ServiceNotFound => {
                    output::line(&format!("{name}  missing"))?;
                }
                Err(rejection) => return Err(rejection.into()),
            }
            needed_by(&name, &found.edges)?;
        }
        (output, _) => edges(&found.edges, output)?,
    }
    Ok(Exit::Ok)
}

/// A service with what it needs below it.
fn tree(node: &DependencyNode) -> Result<(), Failure> {
    branch(node, "", "")
}

fn branch(node: &DependencyNode, first: &str, rest: &str) -> Result<(), Failure> {
    output::line(&format!("{first}{}  {}", declared(node), lack(node)))?;
    if node.needs_left_out {
        output::line(&format!("{rest}└─ left out here: mhub service deps {}", node.service))?;
    }
    for (at, need) in node.needs.iter().enumerate() {
        let last = at + 1 == node.needs.len();
        let (mark, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        branch(need, &format!("{rest}{mark}"), &format!("{rest}{below}"))?;
    }
    Ok(())
}

/// Who needs a service.
fn needed_by(name: &str, edges: &[DependencyEdge]) -> Result<(), Failure> {
    let needs = |edge: &&DependencyEdge| {
        edge.dependency.as_ref().is_some_and(|dependency| dependency.service == name)
    };
    let who: Vec<_> = edges.iter().filter(needs).map(|edge| edge.from.as_str()).collect();
    if !who.is_empty() {
        output::line(&format!("needed by {}", who.join(", ")))?;
    }
    Ok(())
}

/// All edges, as a table or as JSON.
fn edges(edges: &[DependencyEdge], output: Output) -> Result<(), Failure> {
    let one = |edge: &DependencyEdge| {
        let dependency = edge.dependency.clone().unwrap_or_default();
        json!({
            "service": edge.from,
            "needs": dependency.service,
            "versions": dependency.requirement,
            "optional": dependency.optional,
        })
    };
    let all: Vec<_> = edges.iter().map(one).collect();
    output::list(output, &["service", "needs", "versions", "optional"], &all)
}

/// All edges for Graphviz. Names need no escaping: their grammar has no quotes.
fn dot(edges: &[DependencyEdge]) -> Result<(), Failure> {
    output::line("digraph services {")?;
    for edge in edges {
        let Dependency { service, requirement, optional } =
            edge.dependency.clone().unwrap_or_default();
        let style = if optional { ", style=dashed" } else { "" };
        output::line(&format!(
            "  \"{}\" -> \"{service}\" [label=\"{requirement}\"{style}];",
            edge.from
        ))?;
    }
    output::line("}")
}

/// Whether a service is ready, and the chains of causes when it is not.
pub(super) fn ready(readiness: &Readiness, output: Output) -> Done {
    let tree = readiness.tree.clone().unwrap_or_default();
    if output == Output::Table {
        if readiness.ready {
            output::line(&format!("{} is ready", tree.service))?;
        } else {
            output::line(&format!("{} is not ready:", tree.service))?;
            for one in &readiness.causes {
                output::line(&format!("  {}", cause(one)))?;
            }
            if readiness.causes_left_out > 0 {
                output::line(&format!("  and {} more", readiness.causes_left_out))?;
            }
        }
    } else {
        let cause = |cause: &ReadinessCause| {
            let lack = cause.lack().as_str_name().trim_start_matches("LACK_");
            let (services, lack) = (&cause.services, lack.to_ascii_lowercase());
            let mut told = json!({ "services": services, "lack": lack });
            if !cause.versions.is_empty() {
                told["versions"] = json!(cause.versions);
            }
            if cause.more_versions {
                told["more_versions"] = json!(true);
            }
            told
        };
        let causes: Vec<_> = readiness.causes.iter().map(cause).collect();
        let mut told = json!({
            "service": tree.service,
            "ready": readiness.ready,
            "causes": causes,
            "tree": node(&tree),
        });
        if readiness.causes_left_out > 0 {
            told["causes_left_out"] = json!(readiness.causes_left_out.to_string());
        }
        output::item(output, &told)?;
    }
    Ok(if readiness.ready { Exit::Ok } else { Exit::Unhealthy })
}

fn node(known: &DependencyNode) -> Value {
    let mut told = json!({
        "service": known.service,
        "versions": known.requirement,
        "optional": known.optional,
        "healthy": known.healthy.to_string(),
        "state": lack(known),
        "needs": known.needs.iter().map(node).collect::<Vec<_>>(),
    });
    if known.needs_left_out {
        told["needs_left_out"] = json!(true);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_said() {
        let known = DependencyNode { service: "a".to_owned(), ..DependencyNode::default() };
        assert_eq!(node(&known).get("needs_left_out"), None);
        let cut = DependencyNode { needs_left_out: true, ..known };
        assert_eq!(node(&cut)["needs_left_out"], true);
    }

    #[test]
    fn what_there_is_instead_is_said_also_where_no_version_is_told() {
        let lack = |versions: &[&str]| {
            let versions: Vec<_> = versions.iter().map(|v| (*v).to_owned()).collect();
            print_lack(Lack::Incompatible, &versions, false)
        };
        assert_eq!(lack(&["1.0.0", "1.2.0"]), "only versions 1.0.0, 1.2.0");
        assert_eq!(lack(&[""]), "only instances without a version");
        assert_eq!(lack(&["", "1.0.0"]), "only versions 1.0.0, and some without");
        let two = ["1.0.0".to_owned(), "1.2.0".to_owned()];
        let told = print_lack(Lack::Incompatible, &two, true);
        assert_eq!(told, "only versions 1.0.0, 1.2.0, and others");
    }
}
