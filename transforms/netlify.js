// Netlify: https://docs.netlify.com/site-deploys/deploy-notifications/
//
//   name  netlify/deploy.created (it succeeded), netlify/deploy.building, netlify/deploy.failed,
//         netlify/deploy_request.pending, netlify/submission.created (a form), …: the header X-Netlify-Event
//   id    Netlify gives none: it is the deploy or form submission, the event and the time of the last change
//   ts    the time of the last change
//   data  the deploy or form submission as it came, without log_access_attributes, which opens the build's log
function transform(evt, headers, queryParams, raw) {
  var event = headers["X-Netlify-Event"];
  if (!evt || !evt.id || !event) {
    throw new Error("this is no Netlify event: it has no id, or the header X-Netlify-Event is missing");
  }
  var when = evt.updated_at || evt.created_at;
  var ts = Date.parse(when);
  return {
    id: `netlify/${[evt.id, event, when].filter(Boolean).join(".")}`,
    name: `netlify/${event.toLowerCase().replace(/_([a-z]+)$/, ".$1")}`, // the verb is the last word
    ts: isNaN(ts) ? undefined : ts,
    data: Object.assign({}, evt, { log_access_attributes: undefined }),
  };
}
