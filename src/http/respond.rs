//! From outcomes to responses.

use bytes::Bytes;
use hyper::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, HeaderName, HeaderValue,
};
use hyper::{Method, Response, StatusCode};

use super::body::ResponseBody;

/// Why a request is not answered with what it asked for. The client learns the status alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// `Host` names another machine, or nothing.
    Misdirected,
    /// A web page from elsewhere.
    Forbidden,
    /// Neither GET nor HEAD, or not POST where something is changed.
    MethodNotAllowed {
        /// The methods that there are.
        allowed: &'static str,
    },
    /// Too many dashboards are open.
    Busy,
    /// There is no such resource, or nobody has it.
    NotFound,
    /// The range lies outside of the NAR.
    RangeNotSatisfiable {
        /// The NAR's size in bytes.
        size: u64,
    },
}

impl Refusal {
    /// Returns the status that stands for this.
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::RangeNotSatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
        }
    }

    /// Returns the response, its body empty.
    pub(super) fn response(self) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(0u64));
        match self {
            Self::MethodNotAllowed { allowed } => {
                headers.insert(ALLOW, HeaderValue::from_static(allowed));
            }
            Self::RangeNotSatisfiable { size } => {
                headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
                if let Ok(value) = HeaderValue::try_from(format!("bytes */{size}")) {
                    headers.insert(CONTENT_RANGE, value);
                }
            }
            Self::Misdirected | Self::Forbidden | Self::Busy | Self::NotFound => {}
        }
        response
    }
}

/// Answers with a text that is all there, or with its headers alone to a HEAD.
pub(super) fn text(
    method: &Method,
    status: StatusCode,
    content_type: &'static str,
    text: String,
) -> Response<ResponseBody> {
    let text = Bytes::from(text);
    let length = HeaderValue::from(text.len() as u64);
    let body = if method == Method::HEAD {
        ResponseBody::empty()
    } else {
        ResponseBody::full(text)
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, length);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Answers with what is true at the moment, and is for no page to guess at.
pub(super) fn json(
    method: &Method,
    status: StatusCode,
    value: &serde_json::Value,
) -> Response<ResponseBody> {
    let mut response = text(method, status, "application/json", value.to_string());
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    // Opened in a browser it is text and nothing else, in no frame.
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    );
    response
}
