// Bitbucket Data Center (once Server): https://confluence.atlassian.com/bitbucketserver/event-payload-938025882.html
//
//   name  bitbucket/repo.refs_changed, bitbucket/pr.opened, bitbucket/pr.comment.added, bitbucket/pr.reviewer.approved,
//         …: the event's key, with a dot for the colon. They are not those of Bitbucket Cloud.
//   id    X-Request-Id, which is new for each request
//   ts    when it happened (`date`, as 2026-11-22T15:00:00+1000)
//   data  the payload as it came
function transform(evt, headers, queryParams, raw) {
  var key = headers["X-Event-Key"] || (evt && evt.eventKey);
  if (key === "diagnostics:ping") {
    return null; // somebody pressed Test connection
  }
  if (!evt || !key) {
    throw new Error("this is no Bitbucket event: it has no JSON body, or the header X-Event-Key is missing");
  }
  var request = headers["X-Request-Id"];
  return {
    id: request && `bitbucket/${request}`,
    name: `bitbucket/${key.toLowerCase().split(":").join(".").split("-").join("_")}`,
    ts: timeOf(evt.date),
    data: evt,
  };
}

function timeOf(text) {
  var ts = Date.parse(String(text).replace(/([+-]\d\d)(\d\d)$/, "$1:$2")); // +1000 → +10:00
  return isNaN(ts) ? undefined : ts;
}
