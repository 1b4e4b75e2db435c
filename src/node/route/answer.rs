//! What an instance's answer means for the event that it got.

use jiff::fmt::rfc2822;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::model::command::delivery::{Ack, Action, Nack, Reject, Release};
use crate::model::delivery::is_reason;
use crate::model::ids::UnixMs;
use crate::model::limits::{NACK_DETAIL_BYTES_MAX, RETRY_AFTER_MS_MAX, ROUTE_DETAIL_BYTES_MAX};
use crate::proto::v1::{HandleResponse, handle_response};

/// How a call ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    /// What is done to the event.
    pub(super) action: Action,
    /// Whether it counts against the instance.
    pub(super) failed: bool,
}

impl Verdict {
    /// Done well.
    pub(super) fn ack() -> Self {
        Self { action: Action::Ack(Ack {}), failed: false }
    }

    /// The event was not tried.
    pub(super) fn release() -> Self {
        Self { action: Action::Release(Release {}), failed: false }
    }

    /// The event cannot be sent to anybody.
    pub(super) fn unsendable(why: &str) -> Self {
        let (reason, detail) = ("UNSENDABLE".to_owned(), clip(why, ROUTE_DETAIL_BYTES_MAX));
        Self { action: Action::Reject(Reject { reason, detail }), failed: false }
    }

    /// The call broke off, or there was no answer: nobody knows what was done.
    pub(super) fn lost(reason: &str, detail: &str) -> Self {
        Self { action: nack(None, reason, detail), failed: true }
    }
}

fn nack(retry_after_ms: Option<u64>, reason: &str, detail: &str) -> Action {
    let retry_after_ms = retry_after_ms.map(|after| after.min(RETRY_AFTER_MS_MAX));
    let detail = clip(detail, ROUTE_DETAIL_BYTES_MAX);
    Action::Nack(Nack { retry_after_ms, reason: reason.to_owned(), detail })
}

/// The beginning of a text.
fn clip(text: &str, bytes: usize) -> String {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// An HTTP answer.
#[derive(Clone, Debug, Default)]
pub(super) struct HttpAnswer {
    pub(super) status: u16,
    pub(super) retry_after: Option<String>,
    /// Of a redirect.
    pub(super) location: Option<String>,
    pub(super) body: String,
}

/// What an HTTP answer means.
pub(super) fn of_http(answer: &HttpAnswer, retries_client_errors: bool, now: UnixMs) -> Verdict {
    let status = answer.status;
    let reason = format!("HTTP_{status}");
    let after = answer.retry_after.as_deref().and_then(|value| retry_after_ms(value, now));
    let again = |after| nack(after, &reason, &answer.body);
    match status {
        200..=299 => Verdict::ack(),
        300..=399 => {
            let to = answer.location.as_deref().unwrap_or("nowhere");
            Verdict::lost(&reason, &format!("a redirect to {to} is not followed"))
        }
        429 => Verdict { action: again(after), failed: false },
        503 => Verdict { action: again(after), failed: true },
        408 | 425 => Verdict { action: again(None), failed: false },
        400..=499 if !retries_client_errors => {
            let detail = clip(&answer.body, ROUTE_DETAIL_BYTES_MAX);
            Verdict { action: Action::Reject(Reject { reason, detail }), failed: false }
        }
        400..=499 => Verdict { action: again(None), failed: false },
        _ => Verdict { action: again(None), failed: true },
    }
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds, or an instant. Milliseconds from now.
fn retry_after_ms(value: &str, now: UnixMs) -> Option<u64> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(seconds.saturating_mul(1000));
    }
    let at = rfc2822::parse(value).ok()?.timestamp().as_millisecond();
    Some(UnixMs(u64::try_from(at).ok()?).since(now))
}

/// What an answer of `Handler/Handle` means.
pub(super) fn of_grpc(answer: Result<HandleResponse, Status>, retries_blame: bool) -> Verdict {
    match answer {
        Ok(HandleResponse { outcome: None | Some(handle_response::Outcome::Ack(_)) }) => {
            Verdict::ack()
        }
        Ok(HandleResponse { outcome: Some(handle_response::Outcome::Nack(given)) }) => {
            let (reason, detail) = sound(&given.reason, &given.detail);
            let retry_after_ms = given.retry_after_ms.map(|after| after.min(RETRY_AFTER_MS_MAX));
            let action = Action::Nack(Nack { retry_after_ms, reason, detail });
            Verdict { action, failed: false }
        }
        Ok(HandleResponse { outcome: Some(handle_response::Outcome::Reject(given)) }) => {
            let (reason, detail) = sound(&given.reason, &given.detail);
            Verdict { action: Action::Reject(Reject { reason, detail }), failed: false }
        }
        Err(status) => of_status(&status, retries_blame),
    }
}

fn of_status(status: &Status, retries_blame: bool) -> Verdict {
    let name = format!("{:?}", status.code());
    let reason = name.chars().fold("GRPC".to_owned(), |mut snake, c| {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_uppercase());
        snake
    });
    let blames_event = matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
    );
    let detail = status.message();
    if blames_event && !retries_blame {
        let detail = clip(detail, ROUTE_DETAIL_BYTES_MAX);
        return Verdict { action: Action::Reject(Reject { reason, detail }), failed: false };
    }
    let busy = matches!(status.code(), Code::ResourceExhausted | Code::Unavailable);
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let delay = delay.filter(|_| busy);
    let after = delay.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
    let failed = !blames_event && status.code() != Code::ResourceExhausted;
    Verdict { action: nack(after, &reason, detail), failed }
}

/// What an instance says, within the bounds of settlements: a reason that is none goes before the detail.
fn sound(reason: &str, detail: &str) -> (String, String) {
    if is_reason(reason) {
        return (reason.to_owned(), clip(detail, NACK_DETAIL_BYTES_MAX));
    }
    (String::new(), clip(&format!("{reason}: {detail}"), NACK_DETAIL_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::command::delivery::SettleItem;
    use crate::node::settle::check_items;
    use crate::proto::v1;

    const NOW: UnixMs = UnixMs(784_111_777_000);

    fn http(status: u16, retry_after: Option<&str>) -> Verdict {
        let retry_after = retry_after.map(str::to_owned);
        let answer =
            HttpAnswer { status, retry_after, body: "why".into(), ..HttpAnswer::default() };
        of_http(&answer, false, NOW)
    }

    fn after(verdict: &Verdict) -> Option<u64> {
        let Action::Nack(nack) = &verdict.action else { panic!("{verdict:?}") };
        nack.retry_after_ms
    }

    #[test]
    fn statuses_settle() {
        assert_eq!(http(204, None), Verdict::ack());
        let rejected = http(422, None);
        assert!(matches!(&rejected.action, Action::Reject(r) if r.reason == "HTTP_422"));
        assert!(!rejected.failed, "the instance answered well");
        for (status, failed) in [(429, false), (408, false), (425, false), (500, true), (503, true)]
        {
            let verdict = http(status, None);
            assert!(matches!(&verdict.action, Action::Nack(n) if n.detail == "why"), "{status}");
            assert_eq!(verdict.failed, failed, "{status}");
        }
        let answer = HttpAnswer { status: 400, ..HttpAnswer::default() };
        assert!(matches!(of_http(&answer, true, NOW).action, Action::Nack(_)));
        let location = Some("http://127.0.0.1/".to_owned());
        let answer = HttpAnswer { status: 302, location, ..HttpAnswer::default() };
        let Action::Nack(redirected) = of_http(&answer, false, NOW).action else { panic!() };
        assert!(redirected.detail.contains("127.0.0.1"), "{}", redirected.detail);
    }

    #[test]
    fn retry_after_is_seconds_or_an_instant() {
        assert_eq!(after(&http(429, Some("7"))), Some(7000));
        assert_eq!(after(&http(503, Some("Sun, 06 Nov 1994 08:49:39 GMT"))), Some(2000));
        assert_eq!(after(&http(503, Some("Sun, 06 Nov 1994 08:00:00 GMT"))), Some(0));
        assert_eq!(after(&http(503, Some("soon"))), None);
        assert_eq!(after(&http(503, Some("99999999999999"))), Some(RETRY_AFTER_MS_MAX));
        assert_eq!(after(&http(500, Some("7"))), None, "only where it means something");
    }

    #[test]
    fn calls_settle() {
        assert_eq!(of_grpc(Ok(HandleResponse::default()), false), Verdict::ack());
        let said = |outcome| of_grpc(Ok(HandleResponse { outcome: Some(outcome) }), false).action;
        let text = "x".repeat(10_000);
        let nack =
            v1::Nack { retry_after_ms: Some(u64::MAX), reason: "no snake".into(), detail: text };
        let action = said(handle_response::Outcome::Nack(nack));
        let item = |action| SettleItem { action: Some(action), ..SettleItem::default() };
        assert_eq!(check_items(&[item(action)]), Ok(()));
        let reject = v1::Reject { reason: "BAD".into(), detail: "d".into() };
        let Action::Reject(r) = said(handle_response::Outcome::Reject(reject)) else { panic!() };
        assert_eq!((r.reason.as_str(), r.detail.as_str()), ("BAD", "d"));
    }

    #[test]
    fn statuses_of_calls_settle() {
        let of = |status: Status| of_grpc(Err(status), false);
        let rejected = of(Status::invalid_argument("no"));
        assert!(
            matches!(&rejected.action, Action::Reject(r) if r.reason == "GRPC_INVALID_ARGUMENT")
        );
        let retried = of_grpc(Err(Status::invalid_argument("no")), true);
        assert!(matches!(retried.action, Action::Nack(_)) && !retried.failed);
        let details = tonic_types::ErrorDetails::with_retry_info(Some(Duration::from_secs(3)));
        let busy = Status::with_error_details(Code::ResourceExhausted, "busy", details);
        let busy = of(busy);
        assert_eq!((after(&busy), busy.failed), (Some(3000), false));
        let lost = of(Status::unimplemented("no such service"));
        assert!(lost.failed && after(&lost).is_none());
    }
}
