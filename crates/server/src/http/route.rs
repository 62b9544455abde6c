//! A route as data: handler and description stand together, so that `/openapi.json` cannot say
//! anything else than what the router does.

use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter, on};

use crate::app::App;
use crate::http::problem::Code;

/// One method on one path.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) handler: MethodRouter<App>,
    pub(crate) summary: &'static str,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) bodies: Vec<Content>,
    pub(crate) answers: Vec<Answer>,
}

/// A parameter in path, query or header.
#[derive(Debug)]
pub(crate) struct Parameter {
    pub(crate) place: &'static str,
    pub(crate) name: &'static str,
    pub(crate) detail: &'static str,
}

/// A media type and the name of its schema in `openapi/schemas.json`; none for plain text.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) media_type: &'static str,
    pub(crate) schema: Option<&'static str>,
}

/// A status and what comes with it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) detail: &'static str,
    pub(crate) content: Option<Content>,
}

const JSON: &str = "application/json";

/// What any route may answer.
const EVERYWHERE: &[Code] = &[
    Code::HostRefused,
    Code::Internal,
    Code::Storage,
    Code::Unavailable,
    Code::Draining,
];

impl Route {
    pub(crate) fn get<H: Handler<T, App>, T: 'static>(path: &'static str, handler: H) -> Self {
        Self::new("get", path, on(MethodFilter::GET, handler))
    }

    pub(crate) fn post<H: Handler<T, App>, T: 'static>(path: &'static str, handler: H) -> Self {
        Self::unsafe_method("post", path, on(MethodFilter::POST, handler))
    }

    pub(crate) fn put<H: Handler<T, App>, T: 'static>(path: &'static str, handler: H) -> Self {
        Self::unsafe_method("put", path, on(MethodFilter::PUT, handler))
    }

    pub(crate) fn patch<H: Handler<T, App>, T: 'static>(path: &'static str, handler: H) -> Self {
        Self::unsafe_method("patch", path, on(MethodFilter::PATCH, handler))
    }

    pub(crate) fn delete<H: Handler<T, App>, T: 'static>(path: &'static str, handler: H) -> Self {
        Self::unsafe_method("delete", path, on(MethodFilter::DELETE, handler))
    }

    fn unsafe_method(method: &'static str, path: &'static str, handler: MethodRouter<App>) -> Self {
        Self::new(method, path, handler).problems(&[Code::OriginRefused])
    }

    fn new(method: &'static str, path: &'static str, handler: MethodRouter<App>) -> Self {
        let route = Self {
            method,
            path,
            handler,
            summary: "",
            parameters: Vec::new(),
            bodies: Vec::new(),
            answers: Vec::new(),
        };
        route.problems(EVERYWHERE)
    }

    /// What it does, in a few words.
    pub(crate) fn about(mut self, summary: &'static str) -> Self {
        self.summary = summary;
        self
    }

    /// A part of the path.
    pub(crate) fn segment(self, name: &'static str, detail: &'static str) -> Self {
        self.parameter("path", name, detail)
            .problems(&[Code::Malformed])
    }

    /// A query parameter.
    pub(crate) fn query(self, name: &'static str, detail: &'static str) -> Self {
        self.parameter("query", name, detail)
            .problems(&[Code::InvalidQuery])
    }

    /// A request header.
    pub(crate) fn header(self, name: &'static str, detail: &'static str) -> Self {
        self.parameter("header", name, detail)
    }

    fn parameter(mut self, place: &'static str, name: &'static str, detail: &'static str) -> Self {
        self.parameters.push(Parameter {
            place,
            name,
            detail,
        });
        self
    }

    /// A JSON request body.
    pub(crate) fn body(self, schema: &'static str) -> Self {
        self.body_as(JSON, Some(schema)).problems(&[
            Code::Malformed,
            Code::TooSlow,
            Code::TooLarge,
            Code::UnsupportedMediaType,
            Code::Invalid,
        ])
    }

    /// A request body of another media type.
    pub(crate) fn body_as(
        mut self,
        media_type: &'static str,
        schema: Option<&'static str>,
    ) -> Self {
        self.bodies.push(Content { media_type, schema });
        self
    }

    /// A JSON answer.
    pub(crate) fn answer(self, status: u16, detail: &'static str, schema: &'static str) -> Self {
        self.answer_as(status, detail, JSON, Some(schema))
    }

    /// An answer of another media type.
    pub(crate) fn answer_as(
        mut self,
        status: u16,
        detail: &'static str,
        media_type: &'static str,
        schema: Option<&'static str>,
    ) -> Self {
        self.answers.push(Answer {
            status,
            detail,
            content: Some(Content { media_type, schema }),
        });
        self
    }

    /// An answer without a body.
    pub(crate) fn empty(mut self, status: u16, detail: &'static str) -> Self {
        self.answers.push(Answer {
            status,
            detail,
            content: None,
        });
        self
    }

    /// Problems that it may answer; one status stands once, however many codes share it.
    pub(crate) fn problems(mut self, codes: &[Code]) -> Self {
        for code in codes {
            let status = code.status().as_u16();
            if self.answers.iter().any(|answer| answer.status == status) {
                continue;
            }
            self.answers.push(Answer {
                status,
                detail: code.title(),
                content: Some(Content {
                    media_type: "application/problem+json",
                    schema: Some("Problem"),
                }),
            });
        }
        self
    }
}
