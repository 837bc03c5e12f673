// Sentry: https://docs.sentry.io/integrations/integration-platform/webhooks/
//
//   name  sentry/issue.created, sentry/issue.resolved, sentry/error.created, sentry/event_alert.triggered,
//         sentry/metric_alert.critical, …: the resource, which only a header tells, and the action
//   id    the header Request-ID
//   ts    when the error happened or the comment was written. Of an issue only its creation has a time in the payload:
//         lastSeen is the last error's, whatever was done to the issue since
//   data  the payload as it came: event.data.data.issue. An installation's `code`, which buys a token, is left out
function transform(evt, headers, queryParams, raw) {
  var resource = headers["Sentry-Hook-Resource"];
  if (!resource || !evt || !evt.action) {
    throw new Error("this is no Sentry event: it has no action, or the header Sentry-Hook-Resource is missing");
  }
  var request = headers["Request-Id"];
  return {
    id: request && `sentry/${request}`,
    name: `sentry/${resource}.${evt.action}`,
    ts: timeOf(resource, evt),
    data: withoutCode(evt),
  };
}

function timeOf(resource, evt) {
  var data = evt.data || {};
  var about = data.error || data.event || {};
  var created = resource === "issue" && evt.action === "created" && data.issue ? data.issue.firstSeen : undefined;
  var ts = Date.parse(about.datetime || created || data.timestamp);
  return isNaN(ts) ? undefined : ts;
}

function withoutCode(evt) {
  if (!evt.data || !evt.data.installation) {
    return evt;
  }
  var installation = Object.assign({}, evt.data.installation, { code: undefined });
  return Object.assign({}, evt, { data: Object.assign({}, evt.data, { installation: installation }) });
}
