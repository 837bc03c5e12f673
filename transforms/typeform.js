// Typeform: https://www.typeform.com/developers/webhooks/example-payload/
//
//   name  typeform/form_response, typeform/form_response_partial: the event's type
//   id    the event's id, the same on each retry
//   ts    when the form was submitted
//   data  the body as it came: event.data.form_response.answers, and .definition with the questions
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.event_type) {
    throw new Error("this is no Typeform event: it has no event_type");
  }
  var ts = Date.parse(evt.form_response && evt.form_response.submitted_at);
  return {
    id: evt.event_id && `typeform/${evt.event_id}`,
    name: `typeform/${evt.event_type}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}
