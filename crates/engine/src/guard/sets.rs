//! The sets of patterns that have a name.
//!
//! They look for the shape of an attack and not for words: a quote with a condition behind it, not `select`. What they
//! take for one in clean traffic is counted by `tests::clean_traffic`; what they miss of known attacks by
//! `tests::attacks`. They are a second line: a program that builds queries from texts is not made safe by them.

/// Names, as a RequestGuard has them.
pub const SETS: [&str; 3] = ["sqlInjection", "xss", "commandInjection"];

/// The expression of a set.
#[must_use]
pub fn set(name: &str) -> Option<String> {
    let parts: &[&str] = match name {
        "sqlInjection" => SQL,
        "xss" => XSS,
        "commandInjection" => COMMAND,
        _ => return None,
    };
    Some(format!("(?i)(?:{})", parts.join("|")))
}

const SQL: &[&str] = &[
    // ' or '1'='1, " and "a" like "a, ') or 1=1
    r#"['"]\s*\)*\s*(?:or|and|\|\||&&)\s+(?:not\s+)?['"(]*[\w.-]*['")]*\s*(?:=|<|>|\blike\b|\bin\b|\bis\b|\bbetween\b)"#,
    // 1 or 1=1, 1) and (2>1
    r"\d\s*\)*\s+(?:or|and)\s+\(*\s*(?:not\s+)?\d+\s*(?:=|<|>)\s*\(*\d",
    // admin'--, x'#, ';--
    r#"['"]\)*(?:--|/\*|\s*#\s*$|\s*;\s*--)"#,
    // union select 1,2 ... union all select null
    r"\bunion(?:\s|/\*[^*]*\*/|\()+(?:(?:all|distinct)\s+)?select(?:\s|/\*[^*]*\*/|\()+(?:null\b|[\w@'.]+\s*(?:,|\(|--)|\*\s*from\b|['\d@])",
    // ; drop table x
    r"(?:;|--)\s*(?:(?:drop|alter|truncate|create)\s+(?:table|database|schema|user|view)|insert\s+into|delete\s+from|update\s+\w+\s+set|exec(?:ute)?\s+\w|shutdown\b)",
    // functions and tables that only attacks name in a request
    r"\b(?:pg_sleep|benchmark|load_file|extractvalue|updatexml|xp_\w+|sp_executesql)\s*\(",
    r"\bsleep\s*\(\s*\d+\s*\)\s*(?:$|--|#|\)|'|and|or|,)",
    r#"\bwaitfor\s+delay\s+['"]"#,
    r"\bxp_cmdshell\b",
    r"\binformation_schema\s*\.\s*\w",
    r#"\binto\s+(?:out|dump)file\s+['"]"#,
];

const XSS: &[&str] = &[
    r"<\s*/?\s*script\b",
    // an element with a handler of an event
    r#"<[a-z!][^>]*[\s/"']on[a-z]{3,24}\s*="#,
    r"<\s*(?:iframe|object|embed|applet|base|frameset)\b",
    r"<\s*(?:meta|link|style)\b[^>]*(?:=|:)",
    // where a URL may stand
    r#"(?:^|[=("'\s])(?:java|vb|live)script\s*:\s*[\w%(\[`"']+\s*[(.\[=`;]"#,
    r"(?:^|[=,\x22'])data:text/html",
    r#"['"]\s*(?:>|/>)\s*<\s*[a-z]"#,
    r#"['"]\s+on[a-z]{3,24}\s*=\s*['"\w]"#,
    r"\bsrcdoc\s*=",
];

const COMMAND: &[&str] = &[
    // a shell's separator, a program, and what would follow it in a shell
    concat!(
        r"(?:;|\||&|\n|`|\$\(|<\(|>\()\s*(?:/(?:usr/)?s?bin/)?",
        r"(?:cat|ls|id|whoami|uname|wget|curl|nc|ncat|netcat|bash|sh|zsh|dash|python[23]?|perl|ruby|php|node|rm|cp|mv|",
        r"chmod|chown|kill|ping|sleep|nslookup|dig|powershell|cmd|tftp|telnet|ssh|scp|echo|env|printenv|ps|netstat|",
        r"ifconfig|touch|mkdir|awk|sed|find|tar|dir|type|net|certutil|reboot|shutdown)",
        r"(?:\.exe)?(?:\s*$|\s*[;|&`)<>]|\s+(?:-|/|~|\.|\$|https?:|['\x22`\d]|\w+\s*$))",
    ),
    r"/etc/(?:passwd|shadow|hosts|sudoers)\b",
    r"/(?:usr/)?bin/(?:ba|z|da|k|c)?sh\b",
    r"\bcmd(?:\.exe)?\s+/[ck]\b",
    r"\bpowershell(?:\.exe)?\s+-",
    r"\$\{?IFS\b",
    r"/dev/tcp/",
    // shellshock
    r"\(\)\s*\{[^}]*;\s*\}\s*;",
    // log4shell and its disguises
    r"\$\{(?:jndi|lower|upper|env|sys|::-)",
];
