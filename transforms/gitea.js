// Gitea, and Forgejo: https://docs.gitea.com/usage/webhooks
//
//   name  gitea/push, gitea/create; with the action where there is one: gitea/pull_request.opened,
//         gitea/issue_comment.created, gitea/pull_request_approved.reviewed
//   id    the delivery's GUID
//   ts    when the comment, pull request, issue or release was changed; a push holds no time of its own
//   data  the payload as it came, without the `secret` that servers before 1.14 put into it
function transform(evt, headers, queryParams, raw) {
  var event = headers["X-Gitea-Event"];
  if (!event) {
    throw new Error("the header X-Gitea-Event is missing");
  }
  // With the content type application/x-www-form-urlencoded the JSON is in the field `payload`.
  var payload = evt && Array.isArray(evt.payload) ? JSON.parse(evt.payload[0]) : evt;
  if (!payload) {
    throw new Error("the body is neither JSON nor a form with a payload field");
  }
  var delivery = headers["X-Gitea-Delivery"];
  return {
    id: delivery && `gitea/${delivery}`,
    name: payload.action ? `gitea/${event}.${payload.action}` : `gitea/${event}`,
    ts: timeOf(payload),
    data: Object.assign({}, payload, { secret: undefined }),
  };
}

// What was deleted only says when it was changed before.
function timeOf(payload) {
  var about = payload.comment || payload.pull_request || payload.issue || payload.release || {};
  var ts = payload.action === "deleted" ? NaN : Date.parse(about.updated_at || about.published_at);
  return isNaN(ts) ? undefined : ts;
}
