//! `mhub schema`.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::output::{self, Output};
use super::read::ConsistencyArg;
use super::schema_print::{brief, print_subject, state};
use super::schema_source::Source;
use super::{Done, Failure, Global, confirm, input};
use crate::client::Client;
use crate::model::limits::CALL_BYTES_MAX;
use crate::model::rejection::Exit;
use crate::proto::v1::{
    CheckSchemaRequest, Compatibility, DiffSchemasRequest, GetSchemaRequest, GetSubjectRequest,
    ListSubjectsRequest, RegisterSchemaRequest, Schema, SchemaDefinition, SchemaState,
    SetCompatibilityRequest, SetSchemaStateRequest, ValidateDataRequest, schema_change,
};

/// Subjects that are asked for at once.
const PAGE: u32 = 1000;

#[derive(Debug, clap::Subcommand)]
pub(super) enum SchemaCommand {
    /// Register a version of a subject, if it is compatible with those before.
    #[command(
        after_help = "Examples:\n  mhub schema register order.created order.json\n  mhub schema register order.created protos/order.proto protos/money.proto      and what it imports: \"money.proto\"\n  mhub schema register order.created protos/shop/order.proto protos/shop/money.proto --proto-path protos      \"shop/money.proto\"\n  mhub schema register order.created order.avsc --reference com.shop.Money=money@1"
    )]
    Register {
        /// The subject, like a type of events.
        subject: String,
        #[command(flatten)]
        source: Source,
    },
    /// Tell whether a schema could be registered, and why not: up to 100 reasons a version, about 1 MiB of them in all.
    #[command(
        after_help = "Example:\n  mhub schema check order.created order.json --compatibility full"
    )]
    Check {
        /// The subject.
        subject: String,
        #[command(flatten)]
        source: Source,
        /// What it has to be compatible with; default: what the subject says.
        #[arg(long, value_enum)]
        compatibility: Option<CompatibilityArg>,
    },
    /// List subjects, or the versions of one.
    #[command(after_help = "Examples:\n  mhub schema ls\n  mhub schema ls order.created")]
    Ls {
        /// The subject.
        subject: Option<String>,
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
    /// Show a version; its text as it is, unless JSON is asked for.
    #[command(
        disable_version_flag = true,
        visible_alias = "info",
        after_help = "Examples:\n  mhub schema get order.created\n  mhub schema get order.created 2 -o json"
    )]
    Get {
        /// The subject.
        subject: String,
        /// The version; default: the newest that is not deleted.
        #[arg(default_value_t = 0, hide_default_value = true)]
        version: u32,
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
    /// Show what changed from one version to another.
    #[command(
        after_help = "Examples:\n  mhub schema diff order.created 1\n  mhub schema diff order.created 1 2"
    )]
    Diff {
        /// The subject.
        subject: String,
        /// The earlier version.
        from: u32,
        /// The later version; default: the newest that is not deleted.
        #[arg(default_value_t = 0, hide_default_value = true)]
        to: u32,
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
    /// Tell whether a payload is valid, and every violation; of many the first 100, and that there are more.
    #[command(
        disable_version_flag = true,
        after_help = "Examples:\n  echo '{\"id\": 1}' | mhub schema validate order.created -\n  mhub schema validate order.created order.bin --message shop.Order"
    )]
    Validate {
        /// The subject.
        subject: String,
        /// The payload: a file, or - for standard input.
        file: PathBuf,
        /// The version; default: the newest that is not deleted.
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        version: u32,
        /// For Protobuf the full name of the message; default: the first of the main file.
        #[arg(long, default_value = "", hide_default_value = true)]
        message: String,
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
    /// Set what new versions of a subject have to be compatible with.
    #[command(
        after_help = "Example:\n  mhub schema config order.created --compatibility full_transitive"
    )]
    Config {
        /// The subject.
        subject: String,
        /// What they have to be.
        #[arg(long, value_enum)]
        compatibility: CompatibilityArg,
    },
    /// Tell whoever asks for a version not to use it any more.
    #[command(
        disable_version_flag = true,
        after_help = "Examples:\n  mhub schema deprecate order.created 1\n  mhub schema deprecate order.created 1 --undo"
    )]
    Deprecate {
        /// The subject.
        subject: String,
        /// The version.
        version: u32,
        /// Make it an active one again, also if it was deleted.
        #[arg(long)]
        undo: bool,
    },
    /// Delete a version: it judges nothing any more, and stays readable.
    #[command(
        disable_version_flag = true,
        after_help = "Example:\n  mhub schema rm order.created 1 --yes"
    )]
    Rm {
        /// The subject.
        subject: String,
        /// The version.
        version: u32,
        /// Do not ask.
        #[arg(long, env = "MHUB_YES")]
        yes: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum CompatibilityArg {
    None,
    Backward,
    BackwardTransitive,
    Forward,
    ForwardTransitive,
    Full,
    FullTransitive,
}

impl From<CompatibilityArg> for Compatibility {
    fn from(arg: CompatibilityArg) -> Self {
        match arg {
            CompatibilityArg::None => Self::None,
            CompatibilityArg::Backward => Self::Backward,
            CompatibilityArg::BackwardTransitive => Self::BackwardTransitive,
            CompatibilityArg::Forward => Self::Forward,
            CompatibilityArg::ForwardTransitive => Self::ForwardTransitive,
            CompatibilityArg::Full => Self::Full,
            CompatibilityArg::FullTransitive => Self::FullTransitive,
        }
    }
}

pub(super) async fn run(command: SchemaCommand, global: Global) -> Done {
    let (client, output) = (global.client()?, global.output);
    match command {
        SchemaCommand::Register { subject, source } => {
            let definition = Some(source.definition()?);
            let request = RegisterSchemaRequest { subject, definition, ..Default::default() };
            output::item(output, &brief(&client.register_schema(request).await?))?;
        }
        SchemaCommand::Check { subject, source, compatibility } => {
            let definition = Some(source.definition()?);
            return check(&client, output, (subject, definition), compatibility).await;
        }
        SchemaCommand::Ls { subject, consistency } => {
            list(&client, output, subject, consistency).await?;
        }
        SchemaCommand::Get { subject, version, consistency } => {
            let options = Some(consistency.options());
            let found = client.schema(GetSchemaRequest { subject, version, options }).await?;
            show(output, &found)?;
        }
        SchemaCommand::Diff { subject, from, to, consistency } => {
            let request = DiffSchemasRequest {
                subject,
                from_version: from,
                to_version: to,
                options: Some(consistency.options()),
            };
            diff(&client, output, request).await?;
        }
        SchemaCommand::Validate { subject, file, version, message, consistency } => {
            let data = input::read(&file, CALL_BYTES_MAX)?.into();
            let options = Some(consistency.options());
            let request = ValidateDataRequest { subject, version, data, message, options };
            return validate(&client, output, request).await;
        }
        SchemaCommand::Config { subject, compatibility } => {
            let compatibility = Compatibility::from(compatibility).into();
            let request = SetCompatibilityRequest { subject, compatibility, ..Default::default() };
            output::item(output, &print_subject(&client.set_compatibility(request).await?))?;
        }
        SchemaCommand::Deprecate { subject, version, undo } => {
            let to = if undo { SchemaState::Active } else { SchemaState::Deprecated };
            set_state(&client, output, (subject, version), to).await?;
        }
        SchemaCommand::Rm { subject, version, yes } => {
            let what =
                format!("version {version} of subject {subject} will judge nothing any more");
            confirm(&what, &subject, yes)?;
            set_state(&client, output, (subject, version), SchemaState::Deleted).await?;
        }
    }
    Ok(Exit::Ok)
}

async fn set_state(
    client: &Client,
    output: Output,
    (subject, version): (String, u32),
    to: SchemaState,
) -> Result<(), Failure> {
    let request =
        SetSchemaStateRequest { subject, version, state: to.into(), ..Default::default() };
    output::item(output, &brief(&client.set_schema_state(request).await?))
}

async fn check(
    client: &Client,
    output: Output,
    (subject, definition): (String, Option<SchemaDefinition>),
    compatibility: Option<CompatibilityArg>,
) -> Done {
    let compatibility = compatibility.map_or(Compatibility::Unspecified, Compatibility::from);
    let request = CheckSchemaRequest { subject, definition, compatibility: compatibility.into() };
    let found = client.check_schema(request).await?;
    let problems = found.problems.iter().map(|problem| {
        json!({"what": "malformed", "version": null, "rule": "", "place": problem.place, "text": problem.text})
    });
    let incompatible = found.incompatibilities.iter().map(|why| {
        let what = if why.backward { "backward" } else { "forward" };
        json!({"what": what, "version": why.version, "rule": why.rule, "place": why.place, "text": why.text})
    });
    let rows: Vec<Value> = problems.chain(incompatible).collect();
    if output == Output::Table {
        if found.same_as > 0 {
            output::line(&format!("it is version {}", found.same_as))?;
        } else if found.ok {
            output::line("it can be registered")?;
        } else {
            output::list(output, &["what", "version", "rule", "place", "text"], &rows)?;
            if found.more > 0 {
                output::line(&format!("and {} more", found.more))?;
            }
        }
    } else {
        let same_as = (found.same_as > 0).then_some(found.same_as);
        let told = json!({"ok": found.ok, "same_as": same_as, "failing": rows, "more": found.more});
        output::item(output, &told)?;
    }
    Ok(if found.ok { Exit::Ok } else { Exit::Conflict })
}

async fn list(
    client: &Client,
    output: Output,
    subject: Option<String>,
    consistency: ConsistencyArg,
) -> Result<(), Failure> {
    let options = Some(consistency.options());
    if let Some(subject) = subject {
        let found = client.subject(GetSubjectRequest { subject, options }).await?;
        let versions = found.versions.iter();
        let rows: Vec<Value> = versions
            .map(|version| {
                let judges = version.version == found.judge;
                json!({"version": version.version, "state": state(version.state()), "judges": judges})
            })
            .collect();
        return output::list(output, &["version", "state", "judges"], &rows);
    }
    let mut request = ListSubjectsRequest { page_size: PAGE, page_token: String::new(), options };
    let mut rows = Vec::new();
    loop {
        let page = client.subjects(request.clone()).await?;
        rows.extend(page.subjects.iter().map(print_subject));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    output::list(output, &["subject", "compatibility", "versions", "judge", "updated_at"], &rows)
}

fn show(output: Output, found: &Schema) -> Result<(), Failure> {
    let definition = found.definition.clone().unwrap_or_default();
    if output == Output::Table {
        if found.state() != SchemaState::Active {
            let (version, state) = (found.version, state(found.state()));
            output::complain(&format!("version {version} is {state}"));
        }
        for (n, file) in definition.files.iter().enumerate() {
            if n > 0 {
                output::line(&format!("// {}", file.name))?;
            }
            output::line(file.text.trim_end())?;
        }
        return Ok(());
    }
    let mut printed = brief(found);
    if let Value::Object(fields) = &mut printed {
        let files = definition.files.iter().map(|f| json!({"name": f.name, "text": f.text}));
        fields.insert("files".to_owned(), Value::Array(files.collect()));
        let references = definition.references.iter();
        let references =
            references.map(|r| json!({"name": r.name, "subject": r.subject, "version": r.version}));
        fields.insert("references".to_owned(), Value::Array(references.collect()));
    }
    output::item(output, &printed)
}

async fn diff(client: &Client, output: Output, request: DiffSchemasRequest) -> Result<(), Failure> {
    let found = client.diff_schemas(request).await?;
    let rows: Vec<Value> = found
        .changes
        .iter()
        .map(|change| {
            let kind = match change.kind() {
                schema_change::Kind::Added => "added",
                schema_change::Kind::Removed => "removed",
                schema_change::Kind::Changed => "changed",
                schema_change::Kind::Unspecified => "unknown",
            };
            json!({"change": kind, "place": change.place, "old": change.old, "new": change.new})
        })
        .collect();
    output::list(output, &["change", "place", "old", "new"], &rows)
}

async fn validate(client: &Client, output: Output, request: ValidateDataRequest) -> Done {
    let found = client.validate_data(request).await?;
    let rows: Vec<Value> = found
        .violations
        .iter()
        .map(|violation| json!({"place": violation.place, "text": violation.text}))
        .collect();
    if output == Output::Table {
        if rows.is_empty() {
            output::line(&format!("it is valid by version {}", found.version))?;
        } else {
            output::list(output, &["place", "text"], &rows)?;
        }
    } else {
        let valid = rows.is_empty();
        let told = json!({"valid": valid, "version": found.version, "violations": rows});
        output::item(output, &told)?;
    }
    Ok(if found.violations.is_empty() { Exit::Ok } else { Exit::Error })
}
