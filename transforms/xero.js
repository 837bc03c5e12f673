// Xero: https://developer.xero.com/documentation/guides/webhooks/overview/
//
// One body holds several events, and each becomes one. "Intent to receive" never comes here: the relay answers it.
//
//   name  xero/contact.create, xero/invoice.update, …: the category and the type, in small letters
//   id    Xero's events have none: the category, the resource, the type and the time, the same when the body is sent
//         again
//   ts    when it happened (`eventDateUtc` is UTC and does not say so)
//   data  the event as it came: tenantId is the organisation, resourceUrl where to fetch what was changed
function transform(evt, headers, queryParams, raw) {
  if (!evt || !Array.isArray(evt.events)) {
    throw new Error("this is no Xero webhook: it has no events");
  }
  return evt.events.map(function (event) {
    if (!event || !event.eventCategory || !event.eventType) {
      throw new Error("this is no Xero event: it has no eventCategory or no eventType");
    }
    var name = `${event.eventCategory}.${event.eventType}`.toLowerCase();
    var ts = Date.parse(utc(event.eventDateUtc));
    return {
      id: event.resourceId && event.eventDateUtc && `xero/${name}/${event.resourceId}/${event.eventDateUtc}`,
      name: `xero/${name}`,
      ts: isNaN(ts) ? undefined : ts,
      data: event,
    };
  });
}

function utc(time) {
  return /(Z|[+-]\d\d:?\d\d)$/.test(time) ? time : `${time}Z`;
}
