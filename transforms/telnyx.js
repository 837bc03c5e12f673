// Telnyx: https://developers.telnyx.com/docs/development/api-fundamentals/webhooks/receiving-webhooks
//
//   name  telnyx/message.received, telnyx/message.finalized, telnyx/call.hangup, telnyx/fax.delivered, …: the event's
//         type
//   id    the event's id, the same on each retry and at the failover URL
//   ts    when it happened (occurred_at)
//   data  the body as it came: event.data.data.payload is the message or call, event.data.meta.attempt the attempt
function transform(evt, headers, queryParams, raw) {
  var event = evt && evt.data;
  if (!event || !event.event_type) {
    throw new Error("this is no Telnyx event: it has no data with an event_type");
  }
  var ts = Date.parse(event.occurred_at);
  return {
    id: event.id && `telnyx/${event.id}`,
    name: `telnyx/${event.event_type.toLowerCase().split("-").join("_")}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}
