//! The service `Schemas`.

use std::sync::Arc;

use prost::Message as _;
use tonic::{Request, Response, Status};

use super::convert::{consistency, invalid, page_size};
use crate::model::limits::PAGE_BYTES_TARGET;
use crate::model::rejection::Rejection;
use crate::model::schema as model;
use crate::node::Node;
use crate::node::schemas::Judgement;
use crate::proto::status::to_status;
use crate::proto::v1::schemas_server::Schemas;
use crate::proto::v1::{
    CheckSchemaRequest, CheckSchemaResponse, Compatibility, DiffSchemasRequest,
    DiffSchemasResponse, GetSchemaRequest, GetSubjectRequest, ListSubjectsRequest,
    ListSubjectsResponse, RegisterSchemaRequest, Schema, SchemaChange, SchemaDefinition,
    SchemaFile, SchemaFormat, SchemaIncompatibility, SchemaProblem, SchemaReference, SchemaState,
    SchemaViolation, SetCompatibilityRequest, SetSchemaStateRequest, Subject, SubjectVersion,
    ValidateDataRequest, ValidateDataResponse, schema_change,
};
use crate::schema::{ChangeKind, Direction};

pub(super) struct SchemasService(pub(super) Arc<Node>);

#[tonic::async_trait]
impl Schemas for SchemasService {
    async fn register_schema(
        &self,
        request: Request<RegisterSchemaRequest>,
    ) -> Result<Response<Schema>, Status> {
        let RegisterSchemaRequest { subject, definition, request_id } = request.into_inner();
        let done = async {
            let definition = definition_of(definition)?;
            self.0.register_schema(subject, definition, request_id).await
        };
        answer(done.await.map(schema))
    }

    async fn check_schema(
        &self,
        request: Request<CheckSchemaRequest>,
    ) -> Result<Response<CheckSchemaResponse>, Status> {
        let CheckSchemaRequest { subject, definition, compatibility: rule } = request.into_inner();
        let done = async {
            let definition = definition_of(definition)?;
            let rule = if rule == 0 { None } else { Some(compatibility_of(rule)?) };
            self.0.check_schema(&subject, &definition, rule).await
        };
        answer(done.await.map(judgement))
    }

    async fn get_schema(
        &self,
        request: Request<GetSchemaRequest>,
    ) -> Result<Response<Schema>, Status> {
        let GetSchemaRequest { subject, version, options } = request.into_inner();
        answer(self.0.schema(&subject, version, consistency(options)).await.map(schema))
    }

    async fn get_subject(
        &self,
        request: Request<GetSubjectRequest>,
    ) -> Result<Response<Subject>, Status> {
        let GetSubjectRequest { subject: name, options } = request.into_inner();
        answer(self.0.subject(&name, consistency(options)).await.map(subject))
    }

    async fn list_subjects(
        &self,
        request: Request<ListSubjectsRequest>,
    ) -> Result<Response<ListSubjectsResponse>, Status> {
        let ListSubjectsRequest { page_size: size, page_token, options } = request.into_inner();
        let size = page_size(size);
        // One more than the page tells whether there is another.
        let found = self.0.subjects(page_token, size + 1, consistency(options)).await;
        Ok(Response::new(subjects(found.map_err(|r| to_status(&r))?, size)))
    }

    async fn diff_schemas(
        &self,
        request: Request<DiffSchemasRequest>,
    ) -> Result<Response<DiffSchemasResponse>, Status> {
        let DiffSchemasRequest { subject, from_version, to_version, options } =
            request.into_inner();
        let versions = (from_version, to_version);
        let found = self.0.diff_schemas(&subject, versions, consistency(options)).await;
        answer(found.map(|changes| DiffSchemasResponse {
            changes: changes.into_iter().map(change).collect(),
        }))
    }

    async fn validate_data(
        &self,
        request: Request<ValidateDataRequest>,
    ) -> Result<Response<ValidateDataResponse>, Status> {
        let ValidateDataRequest { subject, version, data, message, options } = request.into_inner();
        let wanted = consistency(options);
        let found = self.0.validate_data(&subject, version, (data, message), wanted).await;
        let violation = |violation: crate::schema::Violation| SchemaViolation {
            place: violation.pointer,
            text: violation.text,
        };
        answer(found.map(|(version, violations)| ValidateDataResponse {
            version,
            violations: violations.into_iter().map(violation).collect(),
        }))
    }

    async fn set_compatibility(
        &self,
        request: Request<SetCompatibilityRequest>,
    ) -> Result<Response<Subject>, Status> {
        let SetCompatibilityRequest { subject: name, compatibility, request_id } =
            request.into_inner();
        let done = async {
            let compatibility = compatibility_of(compatibility)?;
            self.0.set_compatibility(name, compatibility, request_id).await
        };
        answer(done.await.map(subject))
    }

    async fn set_schema_state(
        &self,
        request: Request<SetSchemaStateRequest>,
    ) -> Result<Response<Schema>, Status> {
        let SetSchemaStateRequest { subject, version, state, request_id } = request.into_inner();
        let done = async {
            let state = match SchemaState::try_from(state) {
                Ok(SchemaState::Active) => model::SchemaState::Active,
                Ok(SchemaState::Deprecated) => model::SchemaState::Deprecated,
                Ok(SchemaState::Deleted) => model::SchemaState::Deleted,
                Ok(SchemaState::Unspecified) | Err(_) => {
                    return Err(invalid(format!(
                        "state {state} is none; send one of the named ones"
                    )));
                }
            };
            self.0.set_schema_state(subject, version, state, request_id).await
        };
        answer(done.await.map(schema))
    }
}

fn answer<T>(done: Result<T, Rejection>) -> Result<Response<T>, Status> {
    done.map(Response::new).map_err(|r| to_status(&r))
}

fn definition_of(given: Option<SchemaDefinition>) -> Result<model::SchemaDefinition, Rejection> {
    let given =
        given.ok_or_else(|| invalid("the definition is missing; give the schema's text"))?;
    let format = match given.format() {
        SchemaFormat::Json => model::SchemaFormat::Json,
        SchemaFormat::Protobuf => model::SchemaFormat::Protobuf,
        SchemaFormat::Avro => model::SchemaFormat::Avro,
        SchemaFormat::Unspecified => {
            return Err(invalid("the format is missing; name json, protobuf or avro"));
        }
    };
    let file = |file: SchemaFile| model::SchemaFile { name: file.name, text: file.text };
    let reference = |reference: SchemaReference| {
        let SchemaReference { name, subject, version } = reference;
        model::SchemaReference { name, subject, version }
    };
    Ok(model::SchemaDefinition {
        format: format as i32,
        files: given.files.into_iter().map(file).collect(),
        references: given.references.into_iter().map(reference).collect(),
    })
}

fn compatibility_of(given: i32) -> Result<model::Compatibility, Rejection> {
    Ok(match Compatibility::try_from(given) {
        Ok(Compatibility::BackwardTransitive) => model::Compatibility::BackwardTransitive,
        Ok(Compatibility::Backward) => model::Compatibility::Backward,
        Ok(Compatibility::ForwardTransitive) => model::Compatibility::ForwardTransitive,
        Ok(Compatibility::Forward) => model::Compatibility::Forward,
        Ok(Compatibility::FullTransitive) => model::Compatibility::FullTransitive,
        Ok(Compatibility::Full) => model::Compatibility::Full,
        Ok(Compatibility::None) => model::Compatibility::None,
        Ok(Compatibility::Unspecified) | Err(_) => {
            let text = format!("compatibility {given} is none; send one of the named ones");
            return Err(invalid(text));
        }
    })
}

fn state(of: model::SchemaState) -> SchemaState {
    match of {
        model::SchemaState::Active => SchemaState::Active,
        model::SchemaState::Deprecated => SchemaState::Deprecated,
        model::SchemaState::Deleted => SchemaState::Deleted,
    }
}

fn schema(info: model::SchemaInfo) -> Schema {
    let format = match info.definition.format() {
        model::SchemaFormat::Json => SchemaFormat::Json,
        model::SchemaFormat::Protobuf => SchemaFormat::Protobuf,
        model::SchemaFormat::Avro => SchemaFormat::Avro,
    };
    let file = |file: model::SchemaFile| SchemaFile { name: file.name, text: file.text };
    let reference = |reference: model::SchemaReference| {
        let model::SchemaReference { name, subject, version } = reference;
        SchemaReference { name, subject, version }
    };
    let definition = SchemaDefinition {
        format: format.into(),
        files: info.definition.files.into_iter().map(file).collect(),
        references: info.definition.references.into_iter().map(reference).collect(),
    };
    Schema {
        subject: info.subject,
        version: info.version,
        definition: Some(definition),
        fingerprint: info.fingerprint,
        state: state(info.state).into(),
        created_at_ms: info.created_at.get(),
    }
}

fn subject(info: model::SubjectInfo) -> Subject {
    let compatibility = match info.compatibility {
        model::Compatibility::BackwardTransitive => Compatibility::BackwardTransitive,
        model::Compatibility::Backward => Compatibility::Backward,
        model::Compatibility::ForwardTransitive => Compatibility::ForwardTransitive,
        model::Compatibility::Forward => Compatibility::Forward,
        model::Compatibility::FullTransitive => Compatibility::FullTransitive,
        model::Compatibility::Full => Compatibility::Full,
        model::Compatibility::None => Compatibility::None,
    };
    let judge = info.judge().unwrap_or(0);
    let version = |(version, of)| SubjectVersion { version, state: state(of).into() };
    Subject {
        name: info.name,
        compatibility: compatibility.into(),
        versions: info.versions.into_iter().map(version).collect(),
        judge,
        revision: info.revision,
        created_at_ms: info.created_at.get(),
        updated_at_ms: info.updated_at.get(),
    }
}

/// A page of at most so many subjects, and about so many bytes.
fn subjects(found: Vec<model::SubjectInfo>, size: usize) -> ListSubjectsResponse {
    let (all, mut bytes, mut page) = (found.len(), 0, ListSubjectsResponse::default());
    for next in found.into_iter().take(size).map(subject) {
        bytes += next.encoded_len();
        if bytes > PAGE_BYTES_TARGET && !page.subjects.is_empty() {
            break;
        }
        page.subjects.push(next);
    }
    if let Some(last) = page.subjects.last().filter(|_| page.subjects.len() < all) {
        page.next_page_token.clone_from(&last.name);
    }
    page
}

fn judgement(judged: Judgement) -> CheckSchemaResponse {
    let ok = judged.is_ok();
    let problems = judged.problems.into_iter();
    let more = u32::try_from(judged.incompatible.more).unwrap_or(u32::MAX);
    let incompatible = judged.incompatible.told.into_iter();
    CheckSchemaResponse {
        ok,
        same_as: judged.same_as.unwrap_or(0),
        problems: problems
            .map(|problem| SchemaProblem { place: problem.place, text: problem.text })
            .collect(),
        incompatibilities: incompatible
            .map(|(version, direction, why)| SchemaIncompatibility {
                version,
                backward: direction == Direction::Backward,
                place: why.path,
                rule: why.rule.to_owned(),
                text: why.text,
            })
            .collect(),
        more,
    }
}

fn change(change: crate::schema::Change) -> SchemaChange {
    let kind = match change.kind {
        ChangeKind::Added => schema_change::Kind::Added,
        ChangeKind::Removed => schema_change::Kind::Removed,
        ChangeKind::Changed => schema_change::Kind::Changed,
    };
    SchemaChange { place: change.path, kind: kind.into(), old: change.old, new: change.new }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::UnixMs;

    #[test]
    fn a_page_of_subjects_is_bounded_by_number_and_by_bytes() {
        let info = |n: usize| model::SubjectInfo {
            name: format!("s{n:04}"),
            compatibility: model::Compatibility::None,
            versions: (1..=1000).map(|version| (version, model::SchemaState::Active)).collect(),
            revision: 1,
            created_at: UnixMs(1),
            updated_at: UnixMs(1),
        };
        let mut left: Vec<_> = (0..401).map(info).collect();
        let mut pages = Vec::new();
        loop {
            let page = subjects(left.clone(), 300);
            assert!(page.encoded_len() <= PAGE_BYTES_TARGET + 2000, "{} bytes", page.encoded_len());
            left.drain(..page.subjects.len());
            pages.push(page.subjects.len());
            if page.next_page_token.is_empty() {
                break;
            }
            assert_eq!(page.next_page_token, page.subjects.last().unwrap().name);
        }
        assert!(left.is_empty() && pages.len() > 2, "{pages:?}");
        assert_eq!(subjects((0..3).map(info).collect(), 2).next_page_token, "s0001");
    }
}
