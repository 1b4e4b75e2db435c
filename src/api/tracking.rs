//! The service `Tracking`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert::{consistency, invalid, page_size, recorded_event};
use super::convert_failures::attempt;
use crate::machine::tracking::query::Traced;
use crate::model::ids::{DeadNumber, Position};
use crate::model::trace::{self, Chosen, Standing};
use crate::node::Node;
use crate::proto::status::to_status;
use crate::proto::v1::tracking_server::Tracking;
use crate::proto::v1::{Fate, FateStanding, TraceRequest, TraceResponse, TracedEvent};

pub(super) struct TrackingService(pub(super) Arc<Node>);

#[tonic::async_trait]
impl Tracking for TrackingService {
    async fn trace(
        &self,
        request: Request<TraceRequest>,
    ) -> Result<Response<TraceResponse>, Status> {
        let TraceRequest { correlation_id, page_size: size, page_token, options, subscription } =
            request.into_inner();
        let found = async {
            let from = if page_token.is_empty() { Ok(0) } else { page_token.parse() };
            let from = from.map_err(|_| {
                invalid(format!(
                    "page_token {page_token:?} is of no page; take it from the answer before"
                ))
            })?;
            let (from, size) = (Position(from), page_size(size));
            let story = (correlation_id, Chosen::parse(&subscription)?);
            self.0.trace(story, from, size, consistency(options)).await
        };
        let found = found.await.map_err(|r| to_status(&r))?;
        let next_page_token = found.next.map(|next| next.to_string()).unwrap_or_default();
        let events = found.events.into_iter().map(traced).collect();
        Ok(Response::new(TraceResponse { events, next_page_token }))
    }
}

fn traced(traced: Traced) -> TracedEvent {
    let Traced { topic, event, fates, more_fates } = traced;
    let event = Some(recorded_event(&topic, event));
    TracedEvent { event, fates: fates.into_iter().map(fate).collect(), more_fates }
}

fn fate(fate: trace::Fate) -> Fate {
    let mut told = Fate {
        subscription: fate.name,
        failures: fate.failures,
        attempts: fate.attempts.into_iter().map(attempt).collect(),
        redrives: fate.redrives,
        ..Fate::default()
    };
    let standing = match fate.standing {
        Standing::Pending => FateStanding::Pending,
        Standing::Delayed(until) => {
            told.at_ms = until.get();
            FateStanding::Delayed
        }
        Standing::Cancelled => FateStanding::Cancelled,
        Standing::Leased(holder) => {
            told.at_ms = holder.until.get();
            told.consumer = holder.consumer;
            FateStanding::Leased
        }
        Standing::Retrying(due) => {
            told.at_ms = due.get();
            FateStanding::Retrying
        }
        Standing::Acked => FateStanding::Acked,
        Standing::Filtered => FateStanding::Filtered,
        Standing::Before => FateStanding::Before,
        Standing::Dead(death) => {
            told.at_ms = death.at.get();
            told.reason = death.reason as i32;
            told.dead_number = death.number.map_or(0, DeadNumber::get);
            FateStanding::Dead
        }
    };
    told.set_standing(standing);
    told
}
