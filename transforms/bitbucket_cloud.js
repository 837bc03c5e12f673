// Bitbucket Cloud: https://support.atlassian.com/bitbucket-cloud/docs/event-payloads/
//
//   name  bitbucket/repo.push, bitbucket/pullrequest.created, bitbucket/issue.comment_created, …: the event's key,
//         with a dot for the colon
//   id    X-Request-UUID, the same on each retry
//   ts    the time of the comment, approval, pull request, issue or build status; a push has none of its own
//   data  the payload as it came
function transform(evt, headers, queryParams, raw) {
  var key = headers["X-Event-Key"];
  if (!evt || !key) {
    throw new Error("this is no Bitbucket event: it has no JSON body, or the header X-Event-Key is missing");
  }
  if (key === "diagnostics:ping") {
    return null; // somebody pressed Test connection
  }
  var request = headers["X-Request-Uuid"];
  return {
    id: request && `bitbucket/${request}`,
    name: `bitbucket/${key.toLowerCase().split(":").join(".").split("-").join("_")}`,
    ts: timeOf(evt),
    data: evt,
  };
}

// The innermost thing first: the payload of a comment also holds the pull request.
function timeOf(evt) {
  var about = evt.comment || evt.approval || evt.commit_status || evt.pullrequest || evt.issue || {};
  var ts = Date.parse(about.updated_on || about.date || about.created_on);
  return isNaN(ts) ? undefined : ts;
}
