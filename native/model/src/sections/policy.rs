//! The `authz` section: the policies that select our workload, as docs/snapshot.md lists them.
//!
//! In:      section bytes, by `snapshot`.
//! Out:     immutable structs, compiled by `authz::compile` and shown by `authz::explain`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// `authz`: the policies that select our workload.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Authz {
    /// Sorted by namespace and name.
    pub policies: Vec<Policy>,
}

/// One `AuthorizationPolicy`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// What a match means.
    pub action: Action,
    /// Evaluated for the record only.
    pub dry_run: bool,
    /// `file:line` of the document.
    #[serde(rename = "where")]
    pub where_: Arc<str>,
    /// Any rule that matches makes the policy match.
    pub rules: Vec<Rule>,
}

/// What a match of a policy means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// One ALLOW must match once one exists.
    Allow,
    /// A match refuses.
    Deny,
    /// A match is recorded.
    Audit,
}

/// One rule: `from` and `to` are any-of lists of all-of lists, `when` is an all-of list.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Who.
    pub from: Vec<Vec<Predicate>>,
    /// What.
    pub to: Vec<Vec<Predicate>>,
    /// Under which conditions.
    pub when: Vec<Predicate>,
}

/// One attribute against a list of values.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Predicate {
    /// The attribute.
    pub field: Field,
    /// Header name in lower case, path of a claim, or the unsupported Istio field.
    pub name: Arc<str>,
    /// Holds when no value matches.
    pub negate: bool,
    /// Any one matches.
    pub values: Vec<Value>,
}

/// Attributes that policies compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// The peer's URI without `spiffe://`.
    Principal,
    /// The peer's URI.
    Identity,
    /// The TCP peer.
    SourceIp,
    /// The client behind trusted proxies.
    RemoteIp,
    /// The original destination address.
    DestinationIp,
    /// The original destination port.
    DestinationPort,
    /// The server name of the `ClientHello`.
    Sni,
    /// The authority, without regard to case.
    Host,
    /// The method.
    Method,
    /// The path.
    Path,
    /// A header.
    Header,
    /// Issuer and subject of the token, with a NUL between them.
    RequestPrincipal,
    /// A claim of the token, by its path `[a][b]`.
    Claim,
    /// A condition that cannot be honoured.
    Unsupported,
}

impl Field {
    /// Whether the attribute exists in HTTP requests only.
    pub fn is_http_only(self) -> bool {
        use Field::{Claim, Header, Host, Method, Path, RequestPrincipal, Unsupported};
        matches!(self, Host | Method | Path | Header | RequestPrincipal | Claim | Unsupported)
    }
}

/// One value to compare with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Value {
    /// How it is compared.
    pub kind: ValueKind,
    /// The text.
    pub value: Box<str>,
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueKind {
    /// Equal.
    Exact,
    /// Starts with it.
    Prefix,
    /// Ends with it.
    Suffix,
    /// Exists and is not empty.
    Present,
    /// The whole matches the pattern.
    Regex,
    /// Lies in the network.
    Cidr,
    /// The path matches the template.
    Template,
}
