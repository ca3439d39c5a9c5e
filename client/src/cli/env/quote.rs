//! Variables as text that others read: POSIX shells and dotenv libraries. Pure.

/// `export NAME='value'`, one line or more with its newline; `None` for what a POSIX shell has no name for, or no value.
pub(super) fn export(name: &str, value: &str) -> Option<String> {
    let first = name.chars().next()?;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if first.is_ascii_digit() || !name.chars().all(fits) || value.contains('\0') {
        return None;
    }
    Some(format!(
        "export {name}='{}'\n",
        value.replace('\'', r"'\''")
    ))
}

/// `NAME=value`, one line or more with its newline; `None` for names that no dotenv library reads.
///
/// There is no standard; what shells, docker compose and the libraries read alike is chosen: bare where nothing can be
/// misread, else single quotes, in which all is literal, newlines too; double quotes only around a single quote.
pub(super) fn dotenv(name: &str, value: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || !name.chars().all(fits) || value.contains('\0') {
        return None;
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,@%+".contains(c);
    let value = if value.chars().all(plain) {
        value.to_owned()
    } else if value.contains('\'') {
        format!("\"{}\"", escaped(value))
    } else {
        format!("'{value}'")
    };
    Some(format!("{name}={value}\n"))
}

/// For double quotes (POSIX, Shell Command Language, 2.2.3).
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        if "\\\"$`".contains(c) {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What must survive every quoting.
    const VALUES: [&str; 16] = [
        "",
        "plain",
        "http://web.shop:80/a,b",
        " two  words ",
        "$HOME ${HOME} $(id) `id`",
        "it's",
        "''",
        r#"both ' and " and \ and $x and `x`"#,
        "-----BEGIN KEY-----\nabc\n-----END KEY-----\n",
        "'\n'",
        "tab\tand\rreturn",
        "#no comment # here",
        "a=b;c&d|e<f>g*h?[i]!j~{k}",
        r"\n \\ \",
        "ü 日本",
        "\u{1b}[31m",
    ];

    /// The values of `V0`, `V1`… after a shell has read the text.
    fn read_by_a_shell(text: &str, count: usize) -> Vec<String> {
        let show: String = (0..count)
            .map(|index| format!("printf '%s\\0' \"$V{index}\"\n"))
            .collect();
        let output = Command::new("/bin/sh")
            .arg("-c")
            .arg(format!("{text}{show}"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_terminator('\0').map(str::to_owned).collect()
    }

    #[test]
    fn a_shell_reads_both_formats_back() {
        for line in [export, dotenv] {
            let text: String = VALUES
                .iter()
                .enumerate()
                .map(|(index, value)| line(&format!("V{index}"), value).unwrap())
                .collect();
            assert_eq!(read_by_a_shell(&text, VALUES.len()), VALUES, "{text}");
        }
    }

    #[test]
    fn values_are_quoted_as_little_as_possible_for_dotenv() {
        for (value, expected) in [
            ("", "N=\n"),
            ("a/b:80", "N=a/b:80\n"),
            ("a b", "N='a b'\n"),
            ("$a", "N='$a'\n"),
            ("a\nb", "N='a\nb'\n"),
            ("it's $5", "N=\"it's \\$5\"\n"),
        ] {
            assert_eq!(dotenv("N", value).as_deref(), Some(expected));
        }
    }

    #[test]
    fn names_that_would_be_commands_are_left_out() {
        for name in ["", "a b", "a;id", "$(id)", "a=b", "a\nb", "ü"] {
            assert_eq!(export(name, "x"), None, "{name}");
            assert_eq!(dotenv(name, "x"), None, "{name}");
        }
        assert_eq!(export("app.name", "x"), None);
        assert_eq!(export("1a", "x"), None);
        assert_eq!(dotenv("app.name", "x").as_deref(), Some("app.name=x\n"));
        assert_eq!(export("A_1", "a\0b"), None);
        assert_eq!(dotenv("A_1", "a\0b"), None);
    }
}
