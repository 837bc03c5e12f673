// SendGrid: https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event
//
// A request is a list of events; each becomes an event of its own.
//
//   name  sendgrid/email.processed, sendgrid/email.delivered, sendgrid/email.bounce, sendgrid/email.open,
//         sendgrid/email.group_unsubscribe, …: the event's type; sendgrid/account.status_change for the account
//   id    sg_event_id, which SendGrid gives to find duplicates by
//   ts    when it happened (`timestamp` is in seconds)
//   data  the event as it came, with your own unique and custom arguments in it
function transform(evt, headers, queryParams, raw) {
  if (!Array.isArray(evt)) {
    throw new Error("this is no SendGrid batch: the body is no list");
  }
  return evt.map(function (item) {
    if (!item || !item.event) {
      throw new Error("this is no SendGrid event: it has no event");
    }
    return {
      id: item.sg_event_id && `sendgrid/${item.sg_event_id}`,
      name: `sendgrid/${nameOf(item.event)}`,
      ts: item.timestamp ? item.timestamp * 1000 : undefined,
      data: item,
    };
  });
}

function nameOf(event) {
  return event === "account_status_change" ? "account.status_change" : `email.${event.toLowerCase()}`;
}
