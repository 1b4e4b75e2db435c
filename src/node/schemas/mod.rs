//! The registry of schemas: what is registered is compiled and judged here, off the way of the log; the state
//! makes sure that it is still what it was judged against.

mod compare;
mod compile;
pub mod enforce;
mod judgement;
pub mod judges;

use std::sync::Arc;

pub(super) use self::compare::Comparing;
use self::compare::{Turn, compare, standing};
use self::compile::{compiled, definition_of, resolved};
pub use self::judgement::Judgement;
use super::query::Consistency;
use super::{Node, unexpected, validate};
use crate::machine::Fault;
use crate::machine::kv::Kv;
use crate::machine::schema::query;
use crate::model::command::{Kind, RegisterSchema, SetCompatibility, SetSchemaState};
use crate::model::limits::{CALL_BYTES_MAX, SCHEMA_JUDGEMENTS_MAX};
use crate::model::name;
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};
use crate::model::schema::{
    Compatibility, SchemaDefinition, SchemaInfo, SchemaReference, SchemaState, SubjectInfo,
};
use crate::schema::{self, Change, Violation};

impl Node {
    /// Registers a version of a subject. The same schema again is the version that is there.
    ///
    /// # Errors
    /// `INVALID_NAME`, `SCHEMA_MALFORMED`, `SCHEMA_INCOMPATIBLE`, `SCHEMA_NOT_FOUND`, `SCHEMA_CHANGED`,
    /// `LIMIT_REACHED`, `DEADLINE_EXCEEDED` while too many others are judged, and those of any proposal.
    pub async fn register_schema(
        &self,
        subject: String,
        definition: SchemaDefinition,
        request_id: String,
    ) -> Result<SchemaInfo, Rejection> {
        validate::request_id(&request_id)?;
        name::check_subject(&subject)?;
        let mut tries = 0;
        loop {
            let judge = || self.judged_new(&subject, &definition);
            let judged = self.surely(&request_id, judge).await?;
            let register = RegisterSchema {
                subject: subject.clone(),
                definition: definition.clone(),
                fingerprint: judged.fingerprint,
                judged_at: judged.judged_at,
                request_id: request_id.clone(),
            };
            tries += 1;
            match self.execute(Kind::RegisterSchema(register)).await {
                Ok(Outcome::Schema(info)) => return Ok(*info),
                Ok(other) => return Err(unexpected(&other)),
                Err(refused)
                    if refused.reason == Reason::SchemaChanged && tries < SCHEMA_JUDGEMENTS_MAX => {
                }
                Err(refused) => return Err(refused),
            }
        }
    }

    /// A judgement that may be proposed. What this node has is enough for one that takes: the state tells when it was
    /// not the newest. A refusal never comes that far, so it is made sure of here; and a repeated request gets its
    /// first answer, whatever is said of it by now.
    async fn surely<F>(
        &self,
        request_id: &str,
        judge: impl Fn() -> F,
    ) -> Result<Judgement, Rejection>
    where
        F: Future<Output = Result<Judgement, Rejection>>,
    {
        // Elsewhere it is refused anyway.
        if !self.raft.is_leader() {
            return Ok(Judgement::none());
        }
        let mut sure = false;
        loop {
            match judge().await {
                Err(_) if self.is_answered(request_id).await? => return Ok(Judgement::none()),
                Err(_) if !sure => self.fresh(Consistency::Linearizable, self.deadline()).await?,
                judged => return judged,
            }
            sure = true;
        }
    }

    /// A schema that may be registered.
    async fn judged_new(
        &self,
        subject: &str,
        definition: &SchemaDefinition,
    ) -> Result<Judgement, Rejection> {
        self.judge_schema(subject, definition, None).await?.or_refused(subject)
    }

    /// A version that may come back, or needs no judgement.
    async fn judged_back(&self, subject: &str, version: u32) -> Result<Judgement, Rejection> {
        let name = subject.to_owned();
        let turn = self.comparing.turn(self.deadline()).await?;
        let judged = self.read(move |db| judge_again(db, &turn, &name, version)).await??;
        judged.unwrap_or_default().or_refused(subject)
    }

    /// Whether a schema could be registered, by what the subject says or by another rule.
    ///
    /// # Errors
    /// `INVALID_NAME`, `SCHEMA_NOT_FOUND` for a reference that leads nowhere, and those of [`Node::fresh`].
    pub async fn check_schema(
        &self,
        subject: &str,
        definition: &SchemaDefinition,
        rule: Option<Compatibility>,
    ) -> Result<Judgement, Rejection> {
        self.fresh(Consistency::Linearizable, self.deadline()).await?;
        self.judge_schema(subject, definition, rule).await
    }

    async fn judge_schema(
        &self,
        subject: &str,
        definition: &SchemaDefinition,
        rule: Option<Compatibility>,
    ) -> Result<Judgement, Rejection> {
        name::check_subject(subject)?;
        let (subject, definition) = (subject.to_owned(), Arc::new(definition.clone()));
        let turn = self.comparing.turn(self.deadline()).await?;
        self.read(move |db| judge(db, &turn, &subject, &definition, rule)).await?
    }

    /// A version of a subject; 0: the newest that is not deleted.
    ///
    /// # Errors
    /// `SCHEMA_NOT_FOUND`, and those of [`Node::fresh`].
    pub async fn schema(
        &self,
        subject: &str,
        version: u32,
        wanted: Consistency,
    ) -> Result<SchemaInfo, Rejection> {
        self.fresh(wanted, self.deadline()).await?;
        let subject = subject.to_owned();
        self.read(move |db| version_of(db, &subject, version)).await?
    }

    /// A subject.
    ///
    /// # Errors
    /// `SCHEMA_NOT_FOUND`, and those of [`Node::fresh`].
    pub async fn subject(&self, name: &str, wanted: Consistency) -> Result<SubjectInfo, Rejection> {
        self.fresh(wanted, self.deadline()).await?;
        let subject = name.to_owned();
        let found = self.read(move |db| query::subject(db, &subject)).await?;
        found.ok_or_else(|| query::not_found(name, None))
    }

    /// Subjects after a name.
    ///
    /// # Errors
    /// Those of [`Node::fresh`].
    pub async fn subjects(
        &self,
        after: String,
        limit: usize,
        wanted: Consistency,
    ) -> Result<Vec<SubjectInfo>, Rejection> {
        self.fresh(wanted, self.deadline()).await?;
        self.read(move |db| query::subjects(db, &after, limit)).await
    }

    /// What changed from one version of a subject to another; 0: to the newest that is not deleted.
    ///
    /// # Errors
    /// `SCHEMA_NOT_FOUND`, and those of [`Node::fresh`].
    pub async fn diff_schemas(
        &self,
        subject: &str,
        (from, to): (u32, u32),
        wanted: Consistency,
    ) -> Result<Vec<Change>, Rejection> {
        self.fresh(wanted, self.deadline()).await?;
        let subject = subject.to_owned();
        let both = self.read(move |db| {
            let old = version_of(db, &subject, from)?;
            let new = version_of(db, &subject, to)?;
            Ok(old.and_then(|old| Ok((old, new?))))
        });
        let (old, new) = both.await??;
        Ok(schema::diff(&definition_of(&new.definition), &definition_of(&old.definition)))
    }

    /// Whether a payload is valid by a version of a subject (0: the newest that is not deleted); which it was,
    /// and every violation that [`crate::schema::Compiled::validate`] tells.
    ///
    /// # Errors
    /// `SCHEMA_NOT_FOUND`, `CALL_TOO_LARGE`, and those of [`Node::fresh`].
    pub async fn validate_data(
        &self,
        subject: &str,
        version: u32,
        (data, message): (bytes::Bytes, String),
        wanted: Consistency,
    ) -> Result<(u32, Vec<Violation>), Rejection> {
        if data.len() > CALL_BYTES_MAX {
            let bytes = data.len();
            let text = format!("the payload has {bytes} bytes, {CALL_BYTES_MAX} is the most");
            return Err(Rejection::new(Reason::CallTooLarge, text));
        }
        self.fresh(wanted, self.deadline()).await?;
        let subject = subject.to_owned();
        self.read(move |db| {
            let found = match version_of(db, &subject, version)? {
                Ok(found) => found,
                Err(rejection) => return Ok(Err(rejection)),
            };
            let compiled = match compiled(db, &found.definition)? {
                Ok(compiled) => compiled,
                Err(rejection) => return Ok(Err(rejection)),
            };
            let violations = compiled.validate(&data, &message).err().unwrap_or_default();
            Ok(Ok((found.version, violations)))
        })
        .await?
    }

    /// Sets what new versions of a subject have to be compatible with.
    ///
    /// # Errors
    /// `INVALID_NAME`, `LIMIT_REACHED`, and those of any proposal.
    pub async fn set_compatibility(
        &self,
        subject: String,
        compatibility: Compatibility,
        request_id: String,
    ) -> Result<SubjectInfo, Rejection> {
        validate::request_id(&request_id)?;
        name::check_subject(&subject)?;
        let compatibility = compatibility as i32;
        let set = SetCompatibility { subject, compatibility, request_id };
        match self.execute(Kind::SetCompatibility(set)).await? {
            Outcome::Subject(info) => Ok(*info),
            other => Err(unexpected(&other)),
        }
    }

    /// Deprecates or deletes a version, or takes that back: then it has to be compatible with those that stand, as if it
    /// had stood all along.
    ///
    /// # Errors
    /// `SCHEMA_NOT_FOUND`, `SCHEMA_IN_USE`, `SCHEMA_INCOMPATIBLE`, `SCHEMA_CHANGED`, and those of any proposal.
    pub async fn set_schema_state(
        &self,
        subject: String,
        version: u32,
        state: SchemaState,
        request_id: String,
    ) -> Result<SchemaInfo, Rejection> {
        validate::request_id(&request_id)?;
        name::check_subject(&subject)?;
        let mut tries = 0;
        loop {
            let mut judged_at = 0;
            if state != SchemaState::Deleted {
                let judge = || self.judged_back(&subject, version);
                judged_at = self.surely(&request_id, judge).await?.judged_at;
            }
            let (subject, request_id) = (subject.clone(), request_id.clone());
            let set =
                SetSchemaState { subject, version, state: state as i32, request_id, judged_at };
            tries += 1;
            match self.execute(Kind::SetSchemaState(set)).await {
                Ok(Outcome::Schema(info)) => return Ok(*info),
                Ok(other) => return Err(unexpected(&other)),
                Err(refused)
                    if refused.reason == Reason::SchemaChanged && tries < SCHEMA_JUDGEMENTS_MAX => {
                }
                Err(refused) => return Err(refused),
            }
        }
    }
}

/// What the state may be asked for, and what it may refuse.
type Found<T> = Result<Result<T, Rejection>, Fault>;

fn version_of(kv: &impl Kv, subject: &str, version: u32) -> Found<SchemaInfo> {
    let number = if version > 0 {
        Some(version)
    } else {
        query::subject(kv, subject)?.and_then(|known| known.judge())
    };
    let Some(number) = number else { return Ok(Err(query::not_found(subject, None))) };
    let found = query::schema(kv, subject, number)?;
    Ok(found.ok_or_else(|| query::not_found(subject, Some(number))))
}

fn judge(
    kv: &impl Kv,
    turn: &Turn,
    name: &str,
    wanted: &SchemaDefinition,
    rule: Option<Compatibility>,
) -> Found<Judgement> {
    let subject = query::subject(kv, name)?;
    let definition = definition_of(wanted);
    let mut judged = Judgement {
        judged_at: subject.as_ref().map_or(0, |known| known.revision),
        fingerprint: schema::fingerprint(&definition),
        ..Judgement::default()
    };
    for SchemaReference { subject, version, .. } in &wanted.references {
        let known = query::schema(kv, subject, *version)?;
        // What refers to it already may go on to; nothing new may.
        if known.is_some_and(|known| known.state == SchemaState::Deleted) {
            return Ok(Err(query::not_found(subject, Some(*version))));
        }
    }
    let resolved = match resolved(kv, &wanted.references)? {
        Ok(resolved) => resolved,
        Err(rejection) => return Ok(Err(rejection)),
    };
    let new = match schema::compile(&definition, &resolved) {
        Ok(new) => new,
        Err(invalid) => {
            judged.problems = invalid.problems;
            return Ok(Ok(judged));
        }
    };
    let Some(subject) = subject else { return Ok(Ok(judged)) };
    for number in standing(&subject) {
        let known = query::schema(kv, name, number)?;
        if known.is_some_and(|known| known.fingerprint == judged.fingerprint) {
            judged.same_as = Some(number);
            return Ok(Ok(judged));
        }
    }
    let rule = rule.unwrap_or(subject.compatibility);
    Ok(compare(kv, turn, &subject, (u32::MAX, &new), rule)?.map(|found| {
        judged.incompatible = found;
        judged
    }))
}

/// What a deleted version that comes back is judged by; `None`: it is not deleted, or not there.
fn judge_again(kv: &impl Kv, turn: &Turn, name: &str, version: u32) -> Found<Option<Judgement>> {
    let Some(subject) = query::subject(kv, name)? else { return Ok(Ok(None)) };
    let Some(found) = query::schema(kv, name, version)? else { return Ok(Ok(None)) };
    if found.state != SchemaState::Deleted {
        return Ok(Ok(None));
    }
    let back = match compiled(kv, &found.definition)? {
        Ok(back) => back,
        Err(rejection) => return Ok(Err(rejection)),
    };
    let incompatible = compare(kv, turn, &subject, (version, &back), subject.compatibility)?;
    Ok(incompatible.map(|incompatible| {
        let (judged_at, fingerprint) = (subject.revision, found.fingerprint);
        Some(Judgement { judged_at, fingerprint, incompatible, ..Judgement::default() })
    }))
}
