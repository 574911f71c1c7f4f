//! `http` and `https` of nodes that speak HTTP/2: one request, and of the answer only its status.
//!
//! The surprise: fields of `req_headers` that have no place in HTTP/2 (`Connection`, `Host`, what is no field) are left out, not
//! refused: the same checks may have been written for HTTP/1.
use std::io;

use bytes::Bytes;
use h2::client::SendRequest;
use sluice_net::Stream;

use super::Verdict;
use crate::health::checks::Active;

pub(super) async fn ask(active: &Active, host: &str, stream: Stream) -> io::Result<Verdict> {
    let request = request(active, host, stream.is_tls())?;
    over(stream, |client| exchange(active, request, client)).await
}

/// Opens HTTP/2 for one exchange, which ends the connection.
pub(super) async fn over<F: Future<Output = io::Result<Verdict>>>(
    stream: Stream,
    exchange: impl FnOnce(SendRequest<Bytes>) -> F,
) -> io::Result<Verdict> {
    let (client, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
    let exchange = exchange(client);
    tokio::pin!(exchange, connection);
    // the connection has to be driven for the exchange to get on; both end here
    tokio::select! {
        biased;
        verdict = &mut exchange => verdict,
        ended = &mut connection => match ended {
            // what came before the end is still to be read
            Ok(()) => exchange.await,
            Err(error) => Err(io::Error::other(error)),
        },
    }
}

async fn exchange(active: &Active, request: http::Request<()>, client: SendRequest<Bytes>) -> io::Result<Verdict> {
    let mut client = client.ready().await.map_err(io::Error::other)?;
    let body = active.http_req_body.as_bytes();
    let (response, mut stream) = client.send_request(request, body.is_empty()).map_err(io::Error::other)?;
    if !body.is_empty() {
        stream.send_data(Bytes::copy_from_slice(body), true).map_err(io::Error::other)?;
    }
    let response = response.await.map_err(io::Error::other)?;
    Ok(Verdict::Status(response.status().as_u16()))
}

fn request(active: &Active, host: &str, secure: bool) -> io::Result<http::Request<()>> {
    let scheme = if secure { "https" } else { "http" };
    let mut request = http::Request::builder()
        .method(active.http_method.as_str())
        .uri(format!("{scheme}://{host}{}", active.http_path))
        .version(http::Version::HTTP_2)
        .body(())
        .map_err(io::Error::other)?;
    for line in &active.req_headers {
        let Some((name, value)) = line.split_once(':') else { continue };
        let (Ok(name), Ok(value)) =
            (name.trim().parse::<http::HeaderName>(), http::HeaderValue::from_str(value.trim()))
        else {
            continue;
        };
        let of_connection =
            ["connection", "host", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];
        if !of_connection.contains(&name.as_str()) {
            request.headers_mut().append(name, value);
        }
    }
    if !active.http_req_body.is_empty() {
        request.headers_mut().insert(http::header::CONTENT_LENGTH, active.http_req_body.len().into());
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::checks::Checks;
    use serde_json::json;

    #[test]
    fn the_request_is_that_of_http_1() {
        let active = Checks::read(&json!({"active": {
            "http_path": "/status?a=b", "http_method": "POST", "http_req_body": "{}",
            "req_headers": ["User-Agent: probe", "Connection: close", "Host: other", "no field"]
        }}));
        let request = request(&active.unwrap().active.unwrap(), "foo.com:81", true).unwrap();
        assert_eq!(
            (request.method().as_str(), request.uri().to_string()),
            ("POST", "https://foo.com:81/status?a=b".into())
        );
        let fields: Vec<_> = request.headers().iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(fields, [("user-agent", "probe"), ("content-length", "2")]);
    }
}
