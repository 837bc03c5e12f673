// GitLab: https://docs.gitlab.com/user/project/integrations/webhook_events/
//
//   name  gitlab/merge_request.open, gitlab/issue.close: the kind and the action;
//         gitlab/pipeline.success, gitlab/build.failed: the kind and the status; gitlab/push, gitlab/tag_push
//   id    Idempotency-Key, the same on each retry (GitLab 17.4 and later; before, the relay makes one).
//         X-Gitlab-Event-UUID is not for this: webhooks that caused one another have the same.
//   ts    the time of the last change, where the payload holds one
//   data  the payload as it came
function transform(evt, headers, queryParams, raw) {
  // System hooks have event_name in place of object_kind.
  var kind = evt && (evt.object_kind || evt.event_name);
  if (!kind) {
    throw new Error("this is no GitLab event: it has no object_kind");
  }
  var about = evt.object_attributes || {};
  // In this order: a merge request has an action, a pipeline a status, a job a build_status.
  var verb = about.action || evt.action || about.status || evt.build_status || evt.status;
  var ts = Date.parse(about.finished_at || about.updated_at || about.created_at);
  var key = headers["Idempotency-Key"] || headers["Webhook-Id"];
  return {
    id: key && `gitlab/${key}`,
    name: verb ? `gitlab/${kind}.${verb}` : `gitlab/${kind}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}
