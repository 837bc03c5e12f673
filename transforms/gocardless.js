// GoCardless: https://developer.gocardless.com/api-reference/#appendix-webhooks
//
// One body holds up to 250 events, and each becomes one.
//
//   name  gocardless/payments.confirmed, gocardless/mandates.cancelled, gocardless/payouts.paid, …: the resource_type
//         and the action, in GoCardless's own words
//   id    the event's id, the same when the body is sent again
//   ts    when the event was made (`created_at`)
//   data  the event as it came: event.data.links says which payment, mandate, …; event.data.details why
function transform(evt, headers, queryParams, raw) {
  if (!evt || !Array.isArray(evt.events)) {
    throw new Error("this is no GoCardless webhook: it has no events");
  }
  return evt.events.map(function (event) {
    if (!event || !event.id || !event.resource_type || !event.action) {
      throw new Error("this is no GoCardless event: it has no id, resource_type or action");
    }
    var ts = Date.parse(event.created_at);
    return {
      id: `gocardless/${event.id}`,
      name: `gocardless/${event.resource_type}.${event.action}`,
      ts: isNaN(ts) ? undefined : ts,
      data: event,
    };
  });
}
