//! The `authn` section compiled: rules with their keys, and the header names that nobody but us may send.
//!
//! In:      the section, from `snapshot`.      Out: `TokenRules`, read by `verify` and, for what is to be fetched, by the engine.
//! Limits:  `MAX_RULES`, `MAX_PLACES`, `MAX_OUTPUTS`.
//! Fails:   a sentence naming the resource; the compiler must not emit such a section. Inline keys that cannot be used do
//!          not fail it: tokens of that issuer are refused (istio-observed 16, attack-cases 2.19).

use std::sync::Arc;

use crate::jwt::KeySet;
use crate::jwt::keys::KeyTable;
use crate::jwt::request::{decoded, params};
use crate::sections::{Authn, TokenHeader, TokenRule};

/// The rules of a snapshot.
#[derive(Debug)]
pub struct TokenRules {
    pub(crate) rules: Vec<CompiledRule>,
    /// Headers that rules send; what a client sends by these names is dropped, token or not (istio-observed 4).
    pub(crate) outputs: Vec<Arc<str>>,
}

/// One rule.
#[derive(Debug)]
pub(crate) struct CompiledRule {
    pub(crate) rule: TokenRule,
    keys: Keys,
}

#[derive(Debug)]
enum Keys {
    Inline(Option<Arc<KeySet>>),
    Fetched(Arc<str>),
}

/// A key set that has to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The address: its name in the `KeyTable`.
    pub address: Arc<str>,
    /// The document there says where the key set is (OIDC discovery).
    pub discovery: bool,
    /// How long a fetch may take.
    pub timeout_ms: u64,
    /// The issuer, for discovery to agree with.
    pub issuer: Box<str>,
}

impl TokenRules {
    /// Compiles a section.
    pub(crate) fn compile(section: Authn) -> Result<Self, String> {
        if section.rules.len() > MAX_RULES {
            return Err(format!("at most {MAX_RULES} rules for tokens select a workload, not {}", section.rules.len()));
        }
        let rules = section.rules.into_iter().map(CompiledRule::compile).collect::<Result<Vec<_>, _>>()?;
        let mut outputs: Vec<_> = rules.iter().flat_map(|rule| rule.rule.outputs().cloned()).collect();
        outputs.sort();
        outputs.dedup();
        Ok(Self { rules, outputs })
    }

    /// Whether a query has a parameter that a token would lie in.
    pub fn look_in_query(&self, query: &[u8]) -> bool {
        params(query).any(|(name, _)| {
            let name = decoded(name);
            self.rules.iter().any(|rule| rule.rule.params.iter().any(|param| param.as_bytes() == &*name))
        })
    }

    /// The key sets that have to be fetched, each once.
    pub fn wanted(&self) -> Vec<Wanted> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for rule in &self.rules {
            let Keys::Fetched(address) = &rule.keys else { continue };
            let known = wanted.iter().position(|one| one.address == *address);
            match known {
                Some(at) => wanted[at].timeout_ms = wanted[at].timeout_ms.max(rule.rule.timeout_ms),
                None => wanted.push(Wanted {
                    address: Arc::clone(address),
                    discovery: !rule.rule.discovery.is_empty(),
                    timeout_ms: rule.rule.timeout_ms,
                    issuer: rule.rule.issuer.clone(),
                }),
            }
        }
        wanted
    }
}

impl CompiledRule {
    fn compile(rule: TokenRule) -> Result<Self, String> {
        let named = |reason: String| {
            format!("RequestAuthentication {}/{} ({}): {reason}", rule.namespace, rule.name, rule.where_)
        };
        rule.check().map_err(named)?;
        let keys = match (&*rule.jwks, &*rule.jwks_uri, &*rule.discovery) {
            (text, "", "") if !text.is_empty() => Keys::Inline(KeySet::parse(text.as_bytes()).ok().map(Arc::new)),
            ("", uri, "") if !uri.is_empty() => Keys::Fetched(uri.into()),
            ("", "", discovery) if !discovery.is_empty() => Keys::Fetched(discovery.into()),
            _ => return Err(named("its keys are inline, at one address, or discovered".into())),
        };
        Ok(Self { rule, keys })
    }

    /// The keys of this rule; none when they could not be fetched or used.
    pub(crate) fn keys<'k>(&'k self, fetched: &'k KeyTable) -> Option<&'k KeySet> {
        match &self.keys {
            Keys::Inline(keys) => keys.as_deref(),
            Keys::Fetched(address) => fetched.sets.get(address).map(|keys| &**keys),
        }
    }

    /// Where its keys are fetched; none when they are inline.
    pub(crate) fn fetched_from(&self) -> Option<&Arc<str>> {
        match &self.keys {
            Keys::Fetched(address) => Some(address),
            Keys::Inline(_) => None,
        }
    }

    /// Whether a token that lies in this header lies in a place of this rule too.
    pub(crate) fn looks_in_header(&self, header: &TokenHeader) -> bool {
        self.rule.headers.contains(header)
    }

    pub(crate) fn looks_in_param(&self, name: &str) -> bool {
        self.rule.params.iter().any(|param| **param == *name)
    }

    pub(crate) fn looks_in_cookie(&self, name: &str) -> bool {
        self.rule.cookies.iter().any(|cookie| **cookie == *name)
    }
}

impl TokenRule {
    /// The headers that it sends.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = &Arc<str>> {
        let payload = Some(&self.payload_header).filter(|name| !name.is_empty());
        payload.into_iter().chain(self.claim_headers.iter().map(|output| &output.header))
    }

    fn check(&self) -> Result<(), String> {
        let places = self.headers.len() + self.params.len() + self.cookies.len();
        if places == 0 || places > MAX_PLACES {
            return Err(format!("a token lies in one of 1 to {MAX_PLACES} places, not {places}"));
        }
        if self.outputs().count() > MAX_OUTPUTS {
            return Err(format!("at most {MAX_OUTPUTS} headers come from a token"));
        }
        let names = self.headers.iter().map(|header| &*header.name).chain(self.outputs().map(|name| &**name));
        let is_name = |name: &str| !name.is_empty() && name.bytes().all(is_lower_token);
        match names.into_iter().find(|name| !is_name(name)) {
            Some(name) => Err(format!("{name:?} is no header name in lower case")),
            None => Ok(()),
        }
    }
}

fn is_lower_token(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// How many rules may select one workload.
pub const MAX_RULES: usize = 64;
/// In how many places one rule looks.
pub const MAX_PLACES: usize = 32;
/// How many headers the tokens of one request become.
pub const MAX_OUTPUTS: usize = 32;
