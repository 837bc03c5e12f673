// GitHub: https://docs.github.com/en/webhooks/webhook-events-and-payloads
//
//   name  github/push, github/ping; with the action where there is one: github/pull_request.opened
//   id    the event's GUID, the same when a person has GitHub deliver it again, and in each webhook that sends it
//   ts    not given: GitHub's payloads hold no time of the event, so it is the time of receipt
//   data  the payload as it came
function transform(evt, headers, queryParams, raw) {
  var event = headers["X-Github-Event"];
  if (!event) {
    throw new Error("the header X-GitHub-Event is missing");
  }
  // With the content type application/x-www-form-urlencoded the JSON is in the field `payload`.
  var payload = evt && Array.isArray(evt.payload) ? JSON.parse(evt.payload[0]) : evt;
  if (!payload) {
    throw new Error("the body is neither JSON nor a form with a payload field");
  }
  // repository_dispatch has an action of the sender's own choosing; it makes a name like all others.
  var delivery = headers["X-Github-Delivery"];
  return {
    id: delivery && `github/${delivery}`,
    name: payload.action ? `github/${event}.${payload.action}` : `github/${event}`,
    data: payload,
  };
}
