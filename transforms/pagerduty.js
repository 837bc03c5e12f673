// PagerDuty (v3): https://developer.pagerduty.com/docs/webhooks-overview
//
//   name  pagerduty/incident.triggered, pagerduty/incident.responder.added, …: the event's type
//   id    the event's id, the same on each retry
//   ts    when it happened
//   data  the payload as it came: event.data.event.data is the incident or service, event.data.event.agent who did it
function transform(evt, headers, queryParams, raw) {
  var event = evt && evt.event;
  if (!event || !event.id || !event.event_type) {
    throw new Error("this is no PagerDuty event (v3): it has no event, or one without id or event_type");
  }
  if (event.event_type === "pagey.ping") {
    return null; // somebody pressed Send Test Event
  }
  var ts = Date.parse(event.occurred_at);
  return {
    id: `pagerduty/${event.id}`,
    name: `pagerduty/${event.event_type}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}
