// CircleCI: https://circleci.com/docs/reference/outbound-webhooks-reference/
//
//   name  circleci/workflow.completed, circleci/job.completed: the event's type, with a dot for the dash
//   id    the event's id, the same when CircleCI sends it twice
//   ts    when it happened
//   data  the payload as it came: event.data.workflow.status, event.data.pipeline.vcs.branch
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.type) {
    throw new Error("this is no CircleCI event: it has no type");
  }
  if (evt.type === "ping") {
    return null; // somebody pressed Test Ping Event
  }
  var ts = Date.parse(evt.happened_at);
  return {
    id: evt.id && `circleci/${evt.id}`,
    name: `circleci/${evt.type.replace("-", ".").split("-").join("_")}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}
