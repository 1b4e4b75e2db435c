//! Refusals on the wire: `google.rpc.Status` with `ErrorInfo`, or a `CallError` inside a stream.

use std::collections::HashMap;
use std::time::Duration;

use tonic_types::{ErrorDetails, StatusExt};

use super::v1::CallError;
use crate::model::limits::REFUSAL_TEXT_BYTES_MAX;
use crate::model::listed::clipped;
use crate::model::rejection::{Code, DOMAIN, Reason, Rejection};

/// A refusal as the status of a gRPC call. It travels in headers: one that is too long for them would never arrive.
#[must_use]
pub fn to_status(rejection: &Rejection) -> tonic::Status {
    let metadata: HashMap<String, String> = rejection.metadata.iter().cloned().collect();
    let mut details = ErrorDetails::with_error_info(rejection.reason.as_str(), DOMAIN, metadata);
    if let Some(delay_ms) = rejection.retry_delay_ms() {
        details.set_retry_info(Some(Duration::from_millis(delay_ms)));
    }
    let code = tonic::Code::from_i32(rejection.reason.code() as i32);
    let message = clipped(&rejection.message, REFUSAL_TEXT_BYTES_MAX);
    tonic::Status::with_error_details(code, message, details)
}

/// The refusal in the status of a gRPC call. A status without `ErrorInfo` comes from the transport:
/// what was sent may or may not have arrived, unless the code says otherwise.
#[must_use]
pub fn from_status(status: &tonic::Status) -> Rejection {
    let Some(info) = status.get_details_error_info() else {
        return Rejection::new(transport_reason(status.code()), status.message());
    };
    let reason = Reason::parse(&info.reason).unwrap_or_else(|| transport_reason(status.code()));
    let mut metadata: Vec<_> = info.metadata.into_iter().collect();
    metadata.sort();
    Rejection { reason, message: status.message().to_owned(), metadata }
}

fn transport_reason(code: tonic::Code) -> Reason {
    match code {
        tonic::Code::InvalidArgument | tonic::Code::Unimplemented => Reason::InvalidRequest,
        tonic::Code::ResourceExhausted => Reason::Overloaded,
        tonic::Code::Internal | tonic::Code::DataLoss => Reason::Internal,
        tonic::Code::DeadlineExceeded => Reason::DeadlineExceeded,
        _ => Reason::OutcomeUnknown,
    }
}

/// A refusal inside a stream.
#[must_use]
pub fn to_call_error(rejection: &Rejection) -> CallError {
    CallError {
        code: rejection.reason.code() as i32,
        message: rejection.message.clone(),
        reason: rejection.reason.as_str().to_owned(),
        metadata: rejection.metadata.iter().cloned().collect(),
    }
}

/// The refusal inside a stream.
#[must_use]
pub fn from_call_error(error: CallError) -> Rejection {
    let reason = Reason::parse(&error.reason).unwrap_or(if error.code == Code::Unknown as i32 {
        Reason::OutcomeUnknown
    } else {
        Reason::Internal
    });
    let mut metadata: Vec<_> = error.metadata.into_iter().collect();
    metadata.sort();
    Rejection { reason, message: error.message, metadata }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_any_length_has_room_in_headers() {
        let refused = Rejection::new(Reason::VersionConflict, "ä\"".repeat(1 << 20));
        let told = from_status(&to_status(&refused.with("key", "k")));
        assert_eq!((told.reason, told.fact("key")), (Reason::VersionConflict, Some("k")));
        assert!(told.message.len() <= REFUSAL_TEXT_BYTES_MAX, "{}", told.message.len());
        assert!(told.message.starts_with("ä\"ä\"") && told.message.ends_with('…'));
    }
}
