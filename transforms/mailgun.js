// Mailgun: https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhook-payloads
//
//   name  mailgun/message.delivered, mailgun/message.failed, mailgun/message.opened, …: the event. Whether a failure
//         is final stands in event.data.severity (permanent or temporary). Mail that a route forwards, which comes
//         as a form (preset mailgun_form), is mailgun/message.received.
//   id    the event's id, the same on each retry; forwarded mail has none
//   ts    when it happened (`timestamp` is in seconds, with a fraction)
//   data  Mailgun's `event-data`, or the form's fields, each as one text. The signature beside it is left out.
function transform(evt, headers, queryParams, raw) {
  if (evt && Array.isArray(evt.recipient)) {
    return received(evt);
  }
  var data = evt && evt["event-data"];
  if (!data || !data.event) {
    throw new Error("this is no Mailgun event: it has no event-data, or no event in it");
  }
  return {
    id: data.id && `mailgun/${data.id}`,
    name: nameOf(data.event),
    ts: data.timestamp ? data.timestamp * 1000 : undefined,
    data: data,
  };
}

function received(form) {
  var fields = {};
  Object.keys(form).forEach(function (field) {
    fields[field] = form[field].length === 1 ? form[field][0] : form[field];
  });
  var event = fields.event; // only Mailgun's webhooks of before 2018 have it
  var seconds = Number(fields.timestamp);
  return {
    name: event ? nameOf(event) : "mailgun/message.received",
    ts: seconds ? seconds * 1000 : undefined,
    data: Object.assign(fields, { token: undefined, signature: undefined }),
  };
}

// list_member_uploaded and the like are about no message.
function nameOf(event) {
  var name = String(event).toLowerCase();
  return name.indexOf("list_") === 0 ? `mailgun/${name}` : `mailgun/message.${name}`;
}
