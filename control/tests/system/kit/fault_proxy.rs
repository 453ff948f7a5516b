//! A proxy between the agent and moto that gives EC2's API what moto lacks (pages) and what nobody wants: throttling,
//! failures, delays, cut answers, refused credentials, objects that are not visible yet.
//!
//! It counts the calls of each action, so that a test can say what exactly was asked.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::server::{Body, Server, answer};

/// What happens to a call.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// EC2 refuses it with this status and code.
    Refused(u16, &'static str),
    /// The same, with an answer that is dated so many seconds away from now.
    Dated(u16, &'static str, i64),
    /// The answer comes late.
    Slow(Duration),
    /// The connection is cut in the middle of the answer.
    Cut,
    /// The answer is no XML, though its status is good.
    Garbage,
}

#[derive(Default)]
struct State {
    /// Faults of an action, and for how many more calls.
    faults: BTreeMap<String, (Fault, usize)>,
    /// Texts that hide the items they occur in, for how many more calls of an action.
    hidden: Vec<(String, String, usize)>,
    /// Replacements in answers.
    rewrites: Vec<(String, String)>,
    /// Most items of a page.
    page: usize,
    calls: BTreeMap<String, usize>,
    /// Calls whose answer may be long and that did not ask for pages.
    unpaged: usize,
}

/// The proxy; it ends when dropped.
pub(crate) struct FaultProxy {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl FaultProxy {
    /// A proxy to moto that does no harm yet.
    pub(crate) async fn start(upstream: &'static str) -> Self {
        let state = Arc::new(Mutex::new(State { page: 1000, ..State::default() }));
        let shared = Arc::clone(&state);
        let server = Server::start(move |request| {
            let shared = Arc::clone(&shared);
            async move {
                handle(&shared, upstream, request)
                    .await
                    .unwrap_or_else(|error| answer(StatusCode::BAD_GATEWAY, "text/plain", error.to_string()))
            }
        })
        .await;
        Self { server, state }
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// The next `times` calls of an action meet this fault.
    pub(crate) fn fault(&self, action: &str, fault: Fault, times: usize) {
        self.state().faults.insert(action.to_owned(), (fault, times));
    }

    /// No more faults.
    pub(crate) fn heal(&self) {
        self.state().faults.clear();
    }

    /// The next `times` answers of an action lack the items in which the text occurs.
    pub(crate) fn hide(&self, action: &str, text: impl Into<String>, times: usize) {
        self.state().hidden.push((action.to_owned(), text.into(), times));
    }

    /// From now on, one text stands for another in every answer.
    pub(crate) fn rewrite(&self, from: impl Into<String>, to: impl Into<String>) {
        self.state().rewrites.push((from.into(), to.into()));
    }

    /// Pages have at most so many items, whatever is asked for.
    pub(crate) fn page_size(&self, items: usize) {
        self.state().page = items;
    }

    /// How often each action was called since the last time this was asked.
    pub(crate) fn take_calls(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut self.state().calls)
    }

    /// Calls that did not ask for pages.
    pub(crate) fn unpaged(&self) -> usize {
        self.state().unpaged
    }

    /// Goes away, and comes back.
    pub(crate) async fn stop(&self) {
        self.server.stop().await;
    }

    /// Comes back on the same port.
    pub(crate) async fn resume(&self) {
        self.server.resume().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The element that holds an action's items.
fn list_element(action: &str) -> Option<&'static str> {
    Some(match action {
        "DescribeSecurityGroups" => "securityGroupInfo",
        "DescribeSecurityGroupRules" => "securityGroupRuleSet",
        "DescribeNetworkInterfaces" => "networkInterfaceSet",
        "DescribeManagedPrefixLists" => "prefixListSet",
        "GetManagedPrefixListEntries" => "entrySet",
        "DescribeSubnets" => "subnetSet",
        "DescribeVpcs" => "vpcSet",
        "DescribeInstanceTypes" => "instanceTypeSet",
        _ => return None,
    })
}

async fn handle(
    state: &Mutex<State>,
    upstream: &str,
    request: Request<Incoming>,
) -> io::Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let form = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let form = String::from_utf8_lossy(&form).into_owned();
    let field = |name: &str| {
        let mut fields = form.split('&').filter_map(|field| field.split_once('='));
        fields.find(|field| field.0 == name).map(|field| field.1.to_owned())
    };
    let action = field("Action").unwrap_or_default();
    let limit = field("MaxResults").and_then(|limit| limit.parse::<usize>().ok());
    let start = field("NextToken").and_then(|token| token.strip_prefix("from-")?.parse::<usize>().ok());
    let (fault, page) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        *state.calls.entry(action.clone()).or_default() += 1;
        state.unpaged += usize::from(limit.is_none());
        (state.take_fault(&action), limit.unwrap_or(usize::MAX).min(state.page))
    };
    match fault {
        Some(Fault::Refused(status, code)) => return Ok(refusal(status, code, 0)),
        Some(Fault::Dated(status, code, seconds)) => return Ok(refusal(status, code, seconds)),
        Some(Fault::Garbage) => {
            return Ok(answer(StatusCode::OK, "text/xml", "<html><body>It works!</body></html"));
        }
        Some(Fault::Slow(delay)) => tokio::time::sleep(delay).await,
        _ => {}
    }
    let kept =
        form.split('&').filter(|field| !field.starts_with("MaxResults=") && !field.starts_with("NextToken="));
    let kept: Vec<_> = kept.collect();
    let (status, text) = forward(upstream, head.headers, kept.join("&")).await?;
    let text = match list_element(&action).filter(|_| status == StatusCode::OK) {
        Some(element) => {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            paged(&state.changed(&action, text, element), element, start.unwrap_or(0), page)
        }
        None => text,
    };
    if matches!(fault, Some(Fault::Cut)) {
        return Ok(cut(text));
    }
    Ok(answer(status, "text/xml", text))
}

impl State {
    fn take_fault(&mut self, action: &str) -> Option<Fault> {
        let key = if self.faults.contains_key(action) { action } else { "*" };
        let (fault, times) = self.faults.get_mut(key)?;
        let fault = fault.clone();
        *times -= 1;
        if *times == 0 {
            self.faults.remove(key);
        }
        Some(fault)
    }

    /// The answer with its replacements, without its hidden items.
    fn changed(&mut self, action: &str, text: String, element: &str) -> String {
        let mut text = text;
        for (from, to) in &self.rewrites {
            text = text.replace(from, to);
        }
        for (of, hidden, times) in &mut self.hidden {
            if of == action && *times > 0 {
                *times -= 1;
                let Some((before, items, after)) = split(&text, element) else { continue };
                let kept: String = items.into_iter().filter(|item| !item.contains(hidden.as_str())).collect();
                text = format!("{before}{kept}{after}");
            }
        }
        text
    }
}

/// The text before the items of a list, the items, and the text after them.
fn split<'a>(text: &'a str, element: &str) -> Option<(&'a str, Vec<&'a str>, &'a str)> {
    let start = text.find(&format!("<{element}>"))? + element.len() + 2;
    let end = start + text[start..].find(&format!("</{element}>"))?;
    let mut items = Vec::new();
    let (mut depth, mut from, mut at) = (0_usize, start, start);
    while let Some(found) = text[at..end].find('<') {
        at += found;
        let rest = &text[at..end];
        if rest.starts_with("<item>") {
            from = if depth == 0 { at } else { from };
            depth += 1;
        } else if rest.starts_with("</item>") {
            depth -= 1;
            if depth == 0 {
                items.push(&text[from..at + "</item>".len()]);
            }
        }
        at += 1;
    }
    Some((&text[..start], items, &text[end..]))
}

/// One page of an answer.
fn paged(text: &str, element: &str, start: usize, page: usize) -> String {
    let Some((before, items, after)) = split(text, element) else { return text.to_owned() };
    let end = items.len().min(start.saturating_add(page));
    let shown: String = items.get(start..end).unwrap_or_default().concat();
    let token = if end < items.len() { format!("<nextToken>from-{end}</nextToken>") } else { String::new() };
    let closing = format!("</{element}>");
    format!("{before}{shown}{}", after.replacen(&closing, &format!("{closing}{token}"), 1))
}

/// EC2's error document.
fn refusal(status: u16, code: &str, seconds: i64) -> Response<Body> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response><Errors><Error><Code>{code}</Code><Message>refused, \
         because a test wants it so</Message></Error></Errors><RequestID>0</RequestID></Response>"
    );
    let status = StatusCode::from_u16(status).expect("tests give HTTP's codes");
    let mut response = answer(status, "text/xml", body);
    let date = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
    let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    response.headers_mut().insert("date", date.parse().expect("a date is a header value"));
    response
}

/// Half of the answer, and no more.
fn cut(text: String) -> Response<Body> {
    let half = Bytes::from(text).slice(..);
    let half = half.slice(..half.len() / 2);
    let parts = [Ok(Frame::data(half)), Err(io::Error::other("cut, because a test wants it so"))];
    Response::new(StreamBody::new(stream::iter(parts)).boxed_unsync())
}

async fn forward(
    upstream: &str,
    headers: hyper::HeaderMap,
    form: String,
) -> io::Result<(StatusCode, String)> {
    let host = upstream.trim_start_matches("http://").trim_end_matches('/');
    let stream = TcpStream::connect(host).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    let mut request = Request::post("/").header("host", host);
    for name in ["content-type", "authorization", "x-amz-date"] {
        if let Some(value) = headers.get(name) {
            request = request.header(name, value);
        }
    }
    let request = request.body(Full::new(Bytes::from(form))).map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_whole_items_and_name_the_next() {
        let text = "<r><set><item>a<x><item>1</item></x></item> <item>b</item><item>c</item></set></r>";
        let first = paged(text, "set", 0, 2);
        assert_eq!(
            first,
            "<r><set><item>a<x><item>1</item></x></item><item>b</item></set><nextToken>from-2</nextToken></r>"
        );
        assert_eq!(paged(text, "set", 2, 2), "<r><set><item>c</item></set></r>");
    }
}
