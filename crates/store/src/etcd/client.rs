//! One connection to one member of etcd and the calls that are made on it. The surprise: every call requires that the
//! member knows a leader, so one that is cut off from its cluster counts as broken.
use super::connector::Member;
use super::message::*;
use super::settings::EtcdSettings;
use hyper::http::uri::PathAndQuery;
use std::error::Error;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio_stream::StreamExt;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

/// The longest message that is taken from etcd, in bytes. Its own limit for one value is 1.5 MiB.
const MESSAGE: usize = 64 << 20;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// Another member or a later attempt may work.
    #[error("{0}")]
    Away(String),
    /// The token is too old.
    #[error("the login has expired")]
    Login,
    #[error("{0}")]
    Denied(String),
    #[error("the revision is not kept any more")]
    Compacted,
    /// The answer is longer than a message may be.
    #[error("the answer is too long")]
    AnswerTooLong,
    /// etcd will not take a transaction of this size.
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    Other(String),
}

impl From<Status> for Failure {
    /// Texts are those of etcd's `rpctypes/error.go`.
    fn from(status: Status) -> Failure {
        let text = status.message();
        match status.code() {
            Code::Unauthenticated => Failure::Login,
            Code::InvalidArgument if text.contains("revision of auth store is old") => Failure::Login,
            Code::PermissionDenied => Failure::Denied(text.to_owned()),
            Code::InvalidArgument if text.contains("user name") || text.contains("authentication failed") => {
                Failure::Denied(text.to_owned())
            }
            Code::OutOfRange if text.contains("decoded message length") => Failure::AnswerTooLong,
            Code::OutOfRange => Failure::Compacted,
            Code::InvalidArgument if text.contains("too many operations") || text.contains("too large") => {
                Failure::TooLarge(text.to_owned())
            }
            // From etcd's gRPC library, before etcd itself sees the request.
            Code::ResourceExhausted if text.contains("larger than max") => Failure::TooLarge(text.to_owned()),
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown | Code::Internal => {
                Failure::Away(if status.source().is_some() { reason(&status) } else { text.to_owned() })
            }
            _ => Failure::Other(text.to_owned()),
        }
    }
}

/// The innermost cause: "connection refused" says more than "transport error".
fn reason(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    match error.source() {
        None => error.to_string(),
        Some(_) => last.to_string(),
    }
}

/// Cloning shares the connection.
#[derive(Clone)]
pub(crate) struct Client {
    grpc: Grpc<Channel>,
    url: Arc<str>,
    login: Option<(String, String)>,
    token: Arc<RwLock<Option<MetadataValue<Ascii>>>>,
    timeout: Duration,
}

impl Client {
    /// Connects, logs in and makes sure that the member answers. The answer's header comes with it.
    pub async fn connect(
        member: &Member,
        settings: &EtcdSettings,
        probe: Vec<u8>,
        patience: Duration,
    ) -> Result<(Client, Header), Failure> {
        let attempt = async {
            let origin = format!("http://{}:{}", bracketed(&member.host), member.port);
            let endpoint = Endpoint::from_shared(origin).map_err(|error| Failure::Other(reason(&error)))?;
            let endpoint = endpoint.user_agent("sluice").map_err(|error| Failure::Other(reason(&error)))?;
            let channel = endpoint.connect_with_connector(member.clone()).await;
            let channel = channel.map_err(|error| Failure::Away(reason(&error)))?;
            let login = settings.user.clone().zip(settings.password.clone());
            let client = Client {
                grpc: Grpc::new(channel).max_decoding_message_size(MESSAGE),
                url: member.url.clone(),
                login,
                token: Arc::default(),
                timeout: settings.timeout,
            };
            client.log_in().await?;
            let header = client.probe(probe).await?;
            Ok((client, header))
        };
        match tokio::time::timeout(patience, attempt).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Away(format!("no answer within {patience:?}"))),
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    async fn log_in(&self) -> Result<(), Failure> {
        let Some((name, password)) = self.login.clone() else { return Ok(()) };
        // Without the old token: etcd refuses even this call where that has expired.
        let bare = Client { token: Arc::default(), ..self.clone() };
        let asked = bare.send("/etcdserverpb.Auth/Authenticate", AuthenticateRequest { name, password }).await;
        let answer: AuthenticateResponse = match asked {
            // APISIX's settings may name a user although etcd's authentication is off.
            Err(Failure::Other(text)) if text.contains("authentication is not enabled") => return Ok(()),
            other => other?,
        };
        let token = answer.token.parse().map_err(|_| Failure::Other("etcd gave a token that is none".to_owned()))?;
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = Some(token);
        Ok(())
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = &*self.token.read().unwrap_or_else(PoisonError::into_inner) {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    async fn send<Q, R>(&self, path: &'static str, message: Q) -> Result<R, Failure>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        let mut grpc = self.grpc.clone();
        let call = async {
            grpc.ready().await.map_err(|error| Failure::Away(reason(&error)))?;
            let request = self.request(message);
            let answer = grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::<Q, R>::default()).await?;
            Ok(answer.into_inner())
        };
        match tokio::time::timeout(self.timeout, call).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Away(format!("{} did not answer within {:?}", self.url, self.timeout))),
        }
    }

    /// With a second attempt after a new login where the token has expired.
    async fn call<Q, R>(&self, path: &'static str, message: Q) -> Result<R, Failure>
    where
        Q: prost::Message + Clone + 'static,
        R: prost::Message + Default + 'static,
    {
        match self.send(path, message.clone()).await {
            Err(Failure::Login) if self.login.is_some() => {
                self.log_in().await?;
                self.send(path, message).await
            }
            result => result,
        }
    }

    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Failure> {
        self.call("/etcdserverpb.KV/Range", request).await
    }

    /// The revision etcd is at, agreed upon by its cluster. `key` need not be there, but must be allowed to be read.
    pub async fn probe(&self, key: Vec<u8>) -> Result<Header, Failure> {
        let request = RangeRequest { key, count_only: true, ..RangeRequest::default() };
        header(self.range(request).await?.header)
    }

    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Failure> {
        self.call("/etcdserverpb.KV/Txn", request).await
    }

    /// A lease of so many seconds.
    pub async fn grant(&self, ttl: i64) -> Result<LeaseGrantResponse, Failure> {
        self.call("/etcdserverpb.Lease/LeaseGrant", LeaseGrantRequest { ttl }).await
    }

    pub async fn revoke(&self, id: i64) -> Result<Empty, Failure> {
        self.call("/etcdserverpb.Lease/LeaseRevoke", LeaseRequest { id }).await
    }

    /// Seconds a lease has left; negative when it is gone.
    pub async fn time_left(&self, id: i64) -> Result<i64, Failure> {
        let answer: LeaseTimeToLiveResponse =
            self.call("/etcdserverpb.Lease/LeaseTimeToLive", LeaseRequest { id }).await?;
        Ok(answer.ttl)
    }

    /// All events from a revision on, in order; messages come whole or in fragments.
    pub async fn watch(
        &self,
        key: Vec<u8>,
        range_end: Vec<u8>,
        from: i64,
    ) -> Result<Streaming<WatchResponse>, Failure> {
        let create = WatchCreateRequest { key, range_end, start_revision: from, progress_notify: true, fragment: true };
        // The stream of requests stays open: its end would end the watch.
        let requests =
            tokio_stream::once(WatchRequest { kind: Some(WatchKind::Create(create)) }).chain(tokio_stream::pending());
        let mut grpc = self.grpc.clone();
        let call = async {
            grpc.ready().await.map_err(|error| Failure::Away(reason(&error)))?;
            let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
            Ok(grpc.streaming(self.request(requests), path, ProstCodec::default()).await?.into_inner())
        };
        match tokio::time::timeout(self.timeout, call).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Away(format!("{} did not answer within {:?}", self.url, self.timeout))),
        }
    }
}

pub(crate) fn header(header: Option<Header>) -> Result<Header, Failure> {
    header.filter(|header| header.revision > 0).ok_or_else(|| Failure::Other("etcd answered without a header".into()))
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcds_words_are_understood() {
        let failure = |code, text: &str| Failure::from(Status::new(code, text));
        for (code, text) in [
            (Code::Unauthenticated, "etcdserver: invalid auth token"),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old"),
        ] {
            assert_eq!(failure(code, text), Failure::Login);
        }
        let text = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(failure(Code::OutOfRange, text), Failure::Compacted);
        let text = "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes";
        assert_eq!(failure(Code::OutOfRange, text), Failure::AnswerTooLong);
        for (code, text) in [
            (Code::InvalidArgument, "etcdserver: too many operations in txn request"),
            (Code::InvalidArgument, "etcdserver: request is too large"),
            (Code::ResourceExhausted, "grpc: received message larger than max (9 vs. 8)"),
        ] {
            assert_eq!(failure(code, text), Failure::TooLarge(text.to_owned()));
        }
        let text = "etcdserver: permission denied";
        assert_eq!(failure(Code::PermissionDenied, text), Failure::Denied(text.to_owned()));
        let text = "etcdserver: no leader";
        assert_eq!(failure(Code::Unavailable, text), Failure::Away(text.to_owned()));
        let text = "etcdserver: mvcc: database space exceeded";
        assert_eq!(failure(Code::ResourceExhausted, text), Failure::Other(text.to_owned()));
    }
}
