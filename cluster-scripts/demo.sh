#!/usr/bin/env bash
# demo.sh: installs what is missing, builds, and shows the hub at work: three nodes on this machine, events in, events
# out of a follower, a work queue with failures, services that find each other, schemas and transactions, a trace and a
# replay, the leader killed, and on it goes.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
build_mhub
export MHUB_BIN=$mhub
dir=$(mktemp -d)/cluster
here=$root/cluster-scripts
keepers=()
finish() {
  local code=$?
  trap - EXIT
  for n in $([ -d "$dir" ] && node_ids "$dir"); do stop_node "$dir" "$n" KILL || true; done
  for keeper in "${keepers[@]}"; do kill -9 "$keeper" 2>/dev/null || true; done
  rm -rf "$(dirname "$dir")"
  exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM
step() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }
mhub() { "$MHUB_BIN" "$@"; }

# The hub delivers to instances on this machine, which it only does where it is told so.
export MHUB_EGRESS_ALLOW=127.0.0.0/8

step "three nodes on loopback"
"$here/up.sh" --nodes 3 --dir "$dir"
# shellcheck disable=SC1091
. "$dir/env"
show mhub cluster members

step "a topic, and events from a file"
show mhub topic create orders --config index_ids=true >/dev/null
show mhub events publish orders "$here/sample-events.jsonl" | tail -n 5

step "one more from standard input, and one only if its key is at version 1"
echo '{"specversion":"1.0","id":"demo-1","source":"/demo","type":"order.created","partitionkey":"order-900","data":{"total":12}}' |
  show mhub events publish orders -
show mhub events append orders --key order-900 --expect 1 --type order.paid --data '{"paid":true}'
show mhub events append orders --key order-900 --expect 1 --type order.paid --data '{"paid":true}' || echo "(refused, as it should be)"

step "a work queue: the urgent event overtakes the others"
show mhub topic create mail >/dev/null
show mhub sub create mailer --topic mail --config max_attempts=2 --config retry.strategy=fixed --config retry.initial=1s >/dev/null
for n in 1 2 3; do show mhub events publish mail --type mail.welcome --data "\"to user $n\"" >/dev/null; done
show mhub events publish mail --type mail.reset --data '"reset your password"' --priority 9 --ttl 10m >/dev/null
show mhub events consume mailer --limit 2

step "what fails comes again after a second, and is a dead letter after the second failure"
show mhub events consume mailer --nack SMTP_DOWN --wait 3
show mhub dlq ls mailer

step "services: two instances of ledger, one of billing, which needs ledger; archive stands in for ledger"
show mhub service register archive >/dev/null
show mhub service register ledger --failover archive --config breaker.failures=3 >/dev/null
show mhub service register billing --depends ledger@^2 >/dev/null
instance() { # instance SERVICE ID FLAG…: prints what it gets into a file
  local service=$1 id=$2
  "$MHUB_BIN" service handle "$service" --id "$id" --version 2.1.0 --ttl 2s "${@:3}" >"$(dirname "$dir")/$id" 2>/dev/null &
  keepers+=($!)
  # The shell has nothing to say when it is killed.
  disown $!
}
instance ledger l1
instance ledger l2
instance archive a1
instance billing b1
wait_for 20 mhub service ready billing >/dev/null
show mhub service deps billing
show mhub service resolve ledger --count 2

step "the hub itself delivers to ledger and to billing: each event to one instance of each, its answer settles it"
show mhub sub create books --topic 'orders' --from start --config target=ledger >/dev/null
show mhub sub create bills --topic 'orders' --from start --config target=billing >/dev/null
acked() { # acked SUBSCRIPTION COUNT
  [ "$(mhub sub info "$1" -o json | sed -n 's/^  "acked": "\([0-9]*\)",$/\1/p')" -ge "$2" ]
}
published=$(mhub topic info orders -o json | sed -n 's/^  "next_offset": "\([0-9]*\)",$/\1/p')
for name in books bills; do wait_for 20 acked "$name" "$published"; done
for id in l1 l2 b1; do
  echo "$id got $(grep -c order "$(dirname "$dir")/$id") events, the last one:"
  tail -n 1 "$(dirname "$dir")/$id"
done

step "kill -9 of one of them: events go to the other at once, and it is given up"
kill -9 "${keepers[0]}"
for n in 1 2 3 4 5 6; do mhub events publish orders --type order.late --data "$n" >/dev/null; done
wait_for 20 acked books $((published + 6))
left() { [ "$(mhub service resolve ledger --count 9 -o jsonl | wc -l)" -eq 1 ]; }
wait_for 20 left
show mhub service info ledger
# Its breaker may be open, and one is as many as may be of three: the next to fail would have to be called.
show mhub service deregister ledger l1 --force

step "failures open the breaker of an instance, and closed by hand it may be called again"
instance ledger l3 --answer 500
shut() { mhub service info ledger -o json | grep -A 30 '"id": "l3"' | grep -q '"breaker": "open"'; }
for n in 1 2 3 4 5 6 7 8 9 10 11 12; do mhub events publish orders --type order.more --data "$n" >/dev/null; done
wait_for 30 shut
show mhub service info ledger
show mhub service breaker ledger l3 auto

step "kill -9 of all of them: what stands in for them is called"
kill -9 "${keepers[1]}" "${keepers[4]}"
failed_over() { [ "$(mhub service resolve ledger -o json | sed -n 's/^ *"service": "\(.*\)",$/\1/p')" = archive ]; }
wait_for 20 failed_over
mhub events publish orders --type order.last --data 13 >/dev/null
wait_for 30 acked books $((published + 19))
echo "a1 got $(wc -l <"$(dirname "$dir")/a1") lines, the last one:"
tail -n 1 "$(dirname "$dir")/a1"

step "a transaction over two topics, all of it or nothing; the second time alice and bob are not new any more"
show mhub topic create accounts >/dev/null
show mhub topic create transfers >/dev/null
transfer='{"parts": [
  {"topic": "accounts", "expect": {"alice": "none", "bob": "none"}, "events": [
    {"specversion": "1.0", "id": "t1", "source": "/demo", "type": "debit", "partitionkey": "alice", "data": 5},
    {"specversion": "1.0", "id": "t2", "source": "/demo", "type": "credit", "partitionkey": "bob", "data": 5}]},
  {"topic": "transfers", "events": [{"specversion": "1.0", "id": "t3", "source": "/demo", "type": "transfer"}]}]}'
echo "$transfer" | show mhub tx run -
echo "$transfer" | show mhub tx run - || echo "(refused, as it should be)"
step "and one that comes bit by bit: nobody sees any of it before the commit"
tx=$(mhub tx begin --label transfers -o json | sed -n 's/^  "id": "\([0-9]*\)",$/\1/p')
for id in t4 t5; do
  echo '{"parts": [{"topic": "transfers", "events": [
    {"specversion": "1.0", "id": "'$id'", "source": "/demo", "type": "transfer"}]}]}' | mhub tx stage "$tx" - >/dev/null
done
show mhub tx show "$tx" -o json
show mhub events read transfers
show mhub tx commit "$tx"
show mhub events read transfers

step "a pipeline: each order leads to one invoice, whatever breaks down in between"
show mhub topic create invoices >/dev/null
show mhub sub create billing --topic orders --from start --filter '{"exact": {"type": "order.created"}}' >/dev/null
show mhub tx pipe billing --into invoices --run 'sed "s/^/invoice for /"' --type invoice --wait 1 | tail -n 5
show mhub events read invoices --limit 2

step "the story of an order: what caused what, and what became of it in every subscription"
for event in "order.placed o1" "order.paid o2 --causation o1" "order.packed o3 --causation o2"; do
  # shellcheck disable=SC2086
  set -- $event
  mhub events publish orders --type "$1" --id "$2" "${@:3}" --correlation order-77 --key order-77 --data '{}' >/dev/null
done
for event in "mail.receipt o4 --causation o2" "mail.packed o5 --causation o3"; do
  # shellcheck disable=SC2086
  set -- $event
  mhub events publish mail --type "$1" --id "$2" "${@:3}" --correlation order-77 --data '"to user 7"' >/dev/null
done
show mhub events consume mailer --limit 1 --reject NO_SUCH_USER --wait 5
show mhub events consume mailer --limit 1 --nack SMTP_DOWN --wait 5
show mhub events trace order-77
echo '{"status": "packed"}' | show mhub key snapshot orders order-77 --version 3 -
show mhub key read orders order-77

step "a topic whose events have to match a schema"
echo '{"type": "object", "required": ["total"], "properties": {"total": {"type": "integer", "minimum": 0}}}' |
  show mhub schema register bill - --format json
show mhub topic create bills --config schema.mode=enforce --config schema.subject=bill >/dev/null
show mhub events publish bills --type bill --data '{"total": 12}'
show mhub events publish bills --type bill --data '{"total": "twelve"}' || echo "(refused, as it should be)"
show mhub events read bills -o jsonl

leader=$(mhub cluster status -o json | sed -n 's/^  "leader_id": "\([0-9]*\)",$/\1/p')
follower=$((leader % 3 + 1))
step "read back from a follower (node $follower), linearizably"
show mhub events read orders --from end --back --limit 5 --endpoint "$(node_endpoint "$dir" "$follower")"
show mhub events read orders --key order-900 --endpoint "$(node_endpoint "$dir" "$follower")"
step "play part of it again, from the follower, into a topic of its own"
show mhub topic create again >/dev/null
show mhub events replay orders --from 0 --until 3 --into again --endpoint "$(node_endpoint "$dir" "$follower"),$MHUB_ENDPOINT"
show mhub events read again --limit 1 -o jsonl

step "kill -9 of the leader (node $leader), and publish again"
"$here/kill-node.sh" "$leader" --dir "$dir"
show mhub events publish orders --type order.shipped --key order-900 --data '{"carrier":"bike"}'
show mhub cluster health || true

step "the new leader knows the dead letters; redriven, they are delivered anew"
show mhub dlq redrive mailer --all
show mhub events consume mailer --wait 2
show mhub queue stats

step "the killed node comes back, and all nodes hold the same state"
"$here/start-node.sh" "$leader" --dir "$dir"
wait_for 30 mhub cluster health
show mhub cluster status
show mhub cluster verify

step "stop"
"$here/down.sh" --dir "$dir"
echo "done: the demo's files are gone, nothing runs any more"
