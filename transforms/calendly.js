// Calendly: https://developer.calendly.com/api-docs/overview/webhooks
//
//   name  calendly/invitee.created, calendly/invitee.canceled, calendly/invitee_no_show.created,
//         calendly/routing_form_submission.created: the event. When an invitee reschedules, both
//         invitee.canceled and invitee.created come: look at event.data.payload.rescheduled and old_invitee.
//   id    Calendly gives none: the event, the invitee's (or submission's) URI without its host, and the time
//   ts    when Calendly made the event
//   data  the body as it came: event.data.payload is the invitee, its scheduled_event the meeting
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.event || !evt.payload) {
    throw new Error("this is no Calendly event: it has no event or no payload");
  }
  var ts = Date.parse(evt.created_at);
  var uri = evt.payload.uri;
  return {
    id: uri && evt.created_at && `calendly/${evt.event}.${uri.replace(/^https:\/\/[^/]+\//, "")}.${evt.created_at}`,
    name: `calendly/${evt.event}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}
