use super::*;

#[test]
fn templates_match_as_istio_says() {
    let table: [(&str, &[&str], &[&str]); 9] = [
        (
            "/foo/{*}",
            &["/foo/bar", "/foo/a;b", "/foo/a%2Fb", "/foo/a*b", "/foo/a!$&'()+,=:@~b"],
            &["/foo/bar/baz", "/foo/", "/foo", "/FOO/bar"],
        ),
        ("/foo/{**}", &["/foo/", "/foo/a/b", "/foo//a"], &["/foo", "/food/a", "/a/foo/"]),
        ("/foo/{**}/", &["/foo//", "/foo/a/"], &["/foo/", "/foo/a"]),
        (
            "/store/{**}/cart",
            &["/store/a/b/cart", "/store//cart", "/store/a/cart"],
            &["/store/cart", "/store/a/cart/", "/store/a/cart/x"],
        ),
        ("/store/{*}/cart", &["/store/a/cart"], &["/store//cart", "/store/a/b/cart"]),
        ("/{*}/{**}", &["/a/", "/a/b/c"], &["/a", "//"]),
        ("/{**}", &["/", "/a/b"], &["", "a"]),
        ("/a.b/{*}", &["/a.b/c"], &["/axb/c"]),
        ("/plain", &["/plain"], &["/plain/", "/plains"]),
    ];
    for (template, matching, others) in table {
        let pattern = Pattern::template(template).unwrap();
        for (path, expected) in matching.iter().map(|path| (path, true)).chain(others.iter().map(|path| (path, false)))
        {
            assert_eq!(pattern.matches(path.as_bytes()), expected, "{template}: {path}");
        }
        assert!(!pattern.matches(b"/store/\xe9/cart") && !pattern.matches(b"/foo/\"") && !pattern.matches(b"/foo/ "));
    }
}

#[test]
fn templates_that_istio_refuses_are_refused() {
    for template in [
        "{**}",
        "",
        "foo/{*}",
        "/{**}/{*}",
        "/{**}/{**}",
        "/a{*}",
        "/{*}b",
        "/{x}",
        "/a*",
        "/{*}*",
        "/a b",
        "/{",
        "/a?b",
    ] {
        assert!(Pattern::template(template).is_err(), "{template}");
    }
}

#[test]
fn expressions_match_whole_texts() {
    let pattern = Pattern::regex(".*/ns/foo/.*", false).unwrap();
    assert!(pattern.matches(b"spiffe://td/ns/foo/sa/x"));
    assert!(!pattern.matches(b"spiffe://td/ns/foobar/sa/x"));
    let either = Pattern::regex("a|bc", false).unwrap();
    assert!(either.matches(b"a") && either.matches(b"bc"));
    assert!(!either.matches(b"ac") && !either.matches(b"abc") && !either.matches(b"xa") && !either.matches(b"a\n"));
    assert!(Pattern::regex("A", true).unwrap().matches(b"a") && !Pattern::regex("A", false).unwrap().matches(b"a"));
    assert!(!Pattern::regex(r"\d", false).unwrap().matches("٣".as_bytes()), "classes are ASCII as in RE2");
    assert!(Pattern::regex(".*", false).unwrap().matches(b"caf\xe9"), "a text need not be UTF-8");
}

#[test]
fn expressions_that_would_escape_their_group_or_grow_are_refused() {
    for expression in ["a)|(b", "(", "a)(?:b", "[", "(?<=a)b", r"(a)\1", "(?:a{1000}){1000}"] {
        assert!(Pattern::regex(expression, false).is_err(), "{expression}");
    }
}

#[test]
fn a_list_says_what_each_pattern_says() {
    let expressions = ["a.*", ".*b", "HOST", "x|y", "a+b"];
    let compile = |fold: bool| {
        let pattern = |(n, expression): (usize, &&str)| (Pattern::regex(expression, fold).unwrap(), n);
        PatternList::new(expressions.iter().enumerate().map(pattern).collect())
    };
    let list = compile(false);
    assert!(list.parts[0].any.is_some(), "five patterns are worth an automaton");
    assert_eq!(list.matching(b"aab").copied().collect::<Vec<_>>(), [0, 1, 4]);
    assert_eq!(list.matching(b"host").count(), 0);
    assert_eq!(compile(true).matching(b"host").copied().collect::<Vec<_>>(), [2]);
}

#[test]
fn patterns_beyond_one_automaton_are_found_all_the_same() {
    let made = |number: usize| (Pattern::template(&format!("/shop-{number}/{{*}}/item")).unwrap(), number);
    let list = PatternList::new((0..6_000).map(made).collect());
    assert!(list.parts.len() > 1, "one automaton holds them all: the test needs more patterns");
    assert!(list.parts.iter().all(|part| part.any.is_some()));
    for number in [0, 17, 2_999, 3_000, 5_999] {
        let text = format!("/shop-{number}/x/item");
        assert_eq!(list.matching(text.as_bytes()).collect::<Vec<_>>(), [&number]);
    }
    assert_eq!(list.matching(b"/shop-6000/x/item").count(), 0);
}
