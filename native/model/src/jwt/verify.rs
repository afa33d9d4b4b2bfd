//! The verdict on the tokens of a request: accepted, absent or refused, by the rules that look where they lie.
//!
//! In: rules, a request, keys, the time in seconds, what was proven before.  Out: `Authenticated`, or a `TokenRefusal`.
//! Limits: `MAX_TOKENS` in the places of a rule; a token costs one signature for each rule of its issuer at most.
//! Fails: closed. A rule accepts a request when every token in its places is good; the first rule that does speaks for the
//! request. Else every token must be good under some rule that looks in its place. No token at all is accepted as nobody.
//! Source: istio-semantics E (combination); istio-observed 3; Envoy's preference among reasons, from the sets 0767 to 0777.

use std::sync::Arc;

use crate::jwt::cache::{VerifiedTokens, hash_of};
use crate::jwt::jws::Compact;
use crate::jwt::keys::KeyTable;
use crate::jwt::outputs::Outputs;
use crate::jwt::request::{Place, TokenRequest, cookies, decoded, params, token_in};
use crate::jwt::rules::{CompiledRule, MAX_OUTPUTS, TokenRules};
use crate::jwt::{CLOCK_SKEW_S, Claims, MAX_TOKENS, TokenRefusal};
use crate::sections::TokenHeader;

/// A token that a rule has proven.
#[derive(Debug)]
pub struct Verified {
    rule: usize,
    claims: Claims,
    outputs: Outputs,
}

impl Verified {
    /// Its claims.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }
}

/// What the tokens of a request have shown.
#[derive(Clone, Debug)]
pub struct Authenticated {
    pub(crate) rules: Arc<TokenRules>,
    tokens: [Option<Arc<Verified>>; MAX_TOKENS],
}

impl Authenticated {
    /// A request without a token, or one that is not asked for any.
    pub(crate) fn nobody(rules: &Arc<TokenRules>) -> Self {
        Self { rules: Arc::clone(rules), tokens: [const { None }; MAX_TOKENS] }
    }

    /// The claims that policy sees; none without a token.
    pub fn claims(&self) -> Option<&Claims> {
        self.tokens[0].as_deref().map(Verified::claims)
    }

    /// The headers that come from the tokens, each name once.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let all = || self.verified().flat_map(|token| &token.outputs.headers);
        let first = move |at: usize, name: &Arc<str>| !all().take(at).any(|(before, _)| before == name);
        let once = all().enumerate().filter(move |(at, (name, _))| first(*at, name));
        once.take(MAX_OUTPUTS).map(|(_, (name, value))| (&**name, &**value))
    }

    /// A claim that was to become a header cannot be one: the request is not sent.
    ///
    /// # Errors
    /// Which is what this says.
    pub fn sendable(&self) -> Result<(), TokenRefusal> {
        if self.verified().any(|token| token.outputs.unsendable) { Err(TokenRefusal::HeaderValue) } else { Ok(()) }
    }

    /// Whether anything of the request changes by it.
    pub fn changes_request(&self) -> bool {
        !self.rules.outputs.is_empty() || self.withheld().next().is_some()
    }

    /// Whether a header does not reach the application: only we may send it, or a token lies in it that goes no further.
    pub fn takes_field(&self, name: &[u8], value: &[u8]) -> bool {
        let is = |own: &str| name.eq_ignore_ascii_case(own.as_bytes());
        let holds = |header: &TokenHeader| is(&header.name) && token_in(value, header.prefix.as_bytes()).is_some();
        self.rules.outputs.iter().any(|output| is(output))
            || self.withheld().any(|rule| rule.rule.headers.iter().any(holds))
    }

    /// Whether a query has parameters that do not reach the application.
    pub fn takes_param_of(&self, query: &[u8]) -> bool {
        params(query).any(|(name, _)| self.takes_param(name))
    }

    /// The other parameters of a query.
    pub fn params_left<'q>(&'q self, query: &'q [u8]) -> impl Iterator<Item = &'q [u8]> {
        let left = |param: &&[u8]| !params(param).any(|(name, _)| self.takes_param(name));
        query.split(|byte| *byte == b'&').filter(left)
    }

    /// What is left of a line of cookies without tokens; none when there is no token in it.
    pub fn without_cookies(&self, line: &[u8]) -> Option<Vec<u8>> {
        let taken =
            |name: &[u8]| self.withheld().any(|rule| rule.rule.cookies.iter().any(|cookie| cookie.as_bytes() == name));
        if !cookies(line).any(|(name, _)| taken(name)) {
            return None;
        }
        let left = line.split(|byte| *byte == b';').filter(|part| !cookies(part).any(|(name, _)| taken(name)));
        Some(left.map(<[u8]>::trim_ascii).collect::<Vec<_>>().join(&b"; "[..]))
    }

    fn takes_param(&self, name: &[u8]) -> bool {
        let name = decoded(name);
        self.withheld().any(|rule| rule.rule.params.iter().any(|param| param.as_bytes() == &*name))
    }

    /// The rules whose tokens are taken out of the request.
    fn withheld(&self) -> impl Iterator<Item = &CompiledRule> {
        self.verified().map(|token| &self.rules.rules[token.rule]).filter(|rule| !rule.rule.forward)
    }

    fn add(&mut self, verified: Arc<Verified>) -> Result<(), TokenRefusal> {
        let place = self.tokens.iter().position(|own| own.as_ref().is_none_or(|own| Arc::ptr_eq(own, &verified)));
        self.tokens[place.ok_or(TokenRefusal::TooMany)?] = Some(verified);
        Ok(())
    }

    fn verified(&self) -> impl Iterator<Item = &Verified> {
        self.tokens.iter().flatten().map(|token| &**token)
    }
}

/// Judges the tokens of a request.
///
/// # Errors
/// Why it is refused.
pub fn authenticate(
    rules: &Arc<TokenRules>,
    request: &TokenRequest<'_>,
    (keys, now_s): (&KeyTable, u64),
    known: &mut VerifiedTokens,
) -> Result<Authenticated, TokenRefusal> {
    known.hold_to(rules, keys.generation);
    let nobody = Authenticated::nobody(rules);
    if request.is_preflight() {
        return Ok(nobody);
    }
    let mut judge = Judge { rules, keys, now_s, known };
    let mut why = Why::Missing;
    for number in 0..rules.rules.len() {
        let mut accepted = nobody.clone();
        match judge.by_rule(number, request, &mut accepted) {
            Ok(()) if accepted.claims().is_some() => return Ok(accepted),
            Ok(()) => {}
            Err(refusal) => why = why.or(refusal),
        }
    }
    if matches!(why, Why::Missing) {
        return Ok(nobody);
    }
    if rules.rules.len() > 1 {
        let mut accepted = nobody;
        match judge.by_any_rule(request, &mut accepted) {
            Ok(()) => return Ok(accepted),
            Err(refusal) => why = why.or(refusal),
        }
    }
    Err(why.refusal())
}

struct Judge<'j> {
    rules: &'j Arc<TokenRules>,
    keys: &'j KeyTable,
    now_s: u64,
    known: &'j mut VerifiedTokens,
}

impl Judge<'_> {
    /// Every token in the places of a rule, each good under it.
    fn by_rule(
        &mut self,
        number: usize,
        request: &TokenRequest<'_>,
        accepted: &mut Authenticated,
    ) -> Result<(), TokenRefusal> {
        let rules = Arc::clone(self.rules);
        request.each_token(&rules.rules[number], &mut |_, token| accepted.add(self.prove(number, token)?))
    }

    /// Every token in any place, each good under some rule that looks there.
    fn by_any_rule(&mut self, request: &TokenRequest<'_>, accepted: &mut Authenticated) -> Result<(), TokenRefusal> {
        let rules = Arc::clone(self.rules);
        for rule in &rules.rules {
            request.each_token(rule, &mut |place, token| accepted.add(self.prove_at(place, token)?))?;
        }
        Ok(())
    }

    fn prove_at(&mut self, place: Place<'_>, token: &[u8]) -> Result<Arc<Verified>, TokenRefusal> {
        let rules = Arc::clone(self.rules);
        let mut why = Why::Missing;
        for (number, _) in rules.rules.iter().enumerate().filter(|(_, rule)| place.is_of(rule)) {
            match self.prove(number, token) {
                Ok(verified) => return Ok(verified),
                Err(refusal) => why = why.or(refusal),
            }
        }
        Err(why.refusal())
    }

    fn prove(&mut self, number: usize, token: &[u8]) -> Result<Arc<Verified>, TokenRefusal> {
        let hash = hash_of(number, token);
        if let Some(known) = self.known.get(&hash) {
            in_time(&known.claims, self.now_s)?;
            return Ok(Arc::clone(known));
        }
        let compiled = &self.rules.rules[number];
        let compact = Compact::parse(token)?;
        let claims = Claims::parse(&compact.payload, &compiled.rule.space_delimited)?;
        let signature = compact.signature()?;
        if !compiled.rule.issuer.is_empty() && *claims.issuer() != *compiled.rule.issuer {
            return Err(TokenRefusal::IssuerUnknown);
        }
        in_time(&claims, self.now_s)?;
        if !claims.is_for(&compiled.rule.audiences) {
            return Err(TokenRefusal::AudienceNotAllowed);
        }
        let keys = compiled.keys(self.keys).ok_or(TokenRefusal::NoKeys)?;
        if let Err(refusal) = keys.prove(&compact, &signature) {
            if let (TokenRefusal::NoMatchingKey, Some(address)) = (refusal, compiled.fetched_from()) {
                self.known.miss(Arc::clone(address));
            }
            return Err(refusal);
        }
        let outputs = Outputs::of(&compiled.rule, &claims, compact.payload_text);
        let verified = Arc::new(Verified { rule: number, claims, outputs });
        self.known.put(hash, token.len(), &verified);
        Ok(verified)
    }
}

/// Whether a token counts now; both ends have the same tolerance.
fn in_time(claims: &Claims, now_s: u64) -> Result<(), TokenRefusal> {
    if claims.not_before_s().is_some_and(|from| from > now_s.saturating_add(CLOCK_SKEW_S)) {
        return Err(TokenRefusal::NotYetValid);
    }
    if claims.expires_s().is_some_and(|until| until.saturating_add(CLOCK_SKEW_S) < now_s) {
        return Err(TokenRefusal::Expired);
    }
    Ok(())
}

/// Which reason is told: a specific one rather than that the issuer is unknown, and the last of those.
#[derive(Clone, Copy)]
enum Why {
    Missing,
    Refused(TokenRefusal),
}

impl Why {
    fn or(self, refusal: TokenRefusal) -> Self {
        match (self, refusal) {
            (Self::Refused(_), TokenRefusal::IssuerUnknown) => self,
            _ => Self::Refused(refusal),
        }
    }

    /// Nobody is refused without a reason; if one were, then because nobody knows the issuer.
    fn refusal(self) -> TokenRefusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::Missing => TokenRefusal::IssuerUnknown,
        }
    }
}
