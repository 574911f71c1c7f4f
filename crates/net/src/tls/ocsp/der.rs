//! DER, as much as OCSP needs. The surprise: lengths are definite and at most four bytes long; all else is refused.

/// What cannot be read, and where.
#[derive(Debug)]
pub(super) struct Malformed(pub(super) &'static str);

/// One element.
#[derive(Clone, Copy)]
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    /// With tag and length.
    pub(super) whole: &'a [u8],
    pub(super) content: &'a [u8],
}

impl<'a> Element<'a> {
    /// The bytes of a BIT STRING that has no bits left over.
    pub(super) fn bits(self) -> Result<&'a [u8], Malformed> {
        match self.content {
            [0, bytes @ ..] => Ok(bytes),
            _ => Err(Malformed("bit string")),
        }
    }

    /// GeneralizedTime as unix time: `YYYYMMDDHHMMSSZ`, fractions of a second not being allowed (RFC 5280, 4.1.2.5.2).
    pub(super) fn time(self) -> Result<i64, Malformed> {
        let bad = Malformed("time");
        let [digits @ .., b'Z'] = self.content else { return Err(bad) };
        if digits.len() != 14 || !digits.iter().all(u8::is_ascii_digit) {
            return Err(bad);
        }
        let number =
            |from, to| digits.get(from..to).unwrap_or_default().iter().fold(0, |n, d| n * 10 + i64::from(d - b'0'));
        let (year, month, day) = (number(0, 4), number(4, 6), number(6, 8));
        let (hour, minute, second) = (number(8, 10), number(10, 12), number(12, 14));
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
            return Err(bad);
        }
        Ok(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
    }
}

/// Days since 1970-01-01 in the Gregorian calendar; years are counted from March, so that leap days come last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// Elements one after another.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// What an element contains.
    pub(super) fn of(element: Element<'a>) -> Reader<'a> {
        Reader(element.content)
    }

    pub(super) fn next(&mut self) -> Result<Element<'a>, Malformed> {
        let [tag, first, rest @ ..] = self.0 else { return Err(Malformed("it ends too early")) };
        let (length, head) = match first {
            0..=0x7f => (usize::from(*first), 2),
            0x81..=0x84 => {
                let count = usize::from(first - 0x80);
                let bytes = rest.get(..count).ok_or(Malformed("it ends too early"))?;
                (bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b)), 2 + count)
            }
            _ => return Err(Malformed("length")),
        };
        let end = head.checked_add(length).ok_or(Malformed("length"))?;
        let (whole, after) = self.0.split_at_checked(end).ok_or(Malformed("it ends too early"))?;
        self.0 = after;
        Ok(Element { tag: *tag, whole, content: whole.get(head..).unwrap_or_default() })
    }

    /// The next element, which is to have this tag.
    pub(super) fn take(&mut self, tag: u8) -> Result<Element<'a>, Malformed> {
        match self.next()? {
            element if element.tag == tag => Ok(element),
            _ => Err(Malformed("something else was expected")),
        }
    }

    /// The next element if it has this tag.
    pub(super) fn optional(&mut self, tag: u8) -> Option<Element<'a>> {
        if self.0.first() == Some(&tag) { self.next().ok() } else { None }
    }
}

/// An element of these parts.
pub(super) fn encode(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|p| p.len()).sum();
    let bytes = length.to_be_bytes();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short @ 0..0x80) => out.push(short),
        _ => {
            let long: Vec<u8> = bytes.iter().copied().skip_while(|b| *b == 0).collect();
            out.push(0x80 | long.len() as u8);
            out.extend(long);
        }
    }
    parts.iter().for_each(|p| out.extend_from_slice(p));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_encoded_is_read(content in proptest::collection::vec(any::<u8>(), 0..70_000), more in any::<u8>()) {
            let mut der = encode(4, &[&content]);
            let whole = der.clone();
            der.push(more);
            let mut reader = Reader(&der);
            let element = reader.take(4).unwrap();
            prop_assert_eq!(element.content, &content[..]);
            prop_assert_eq!(element.whole, &whole[..]);
            prop_assert_eq!(reader.0, &[more][..]);
        }

        #[test]
        fn anything_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader(&bytes);
            while let Ok(element) = reader.next() {
                let _ = (element.bits(), element.time());
            }
        }
    }

    #[test]
    fn times() {
        let time = |text: &str| Element { tag: 0x18, whole: &[], content: text.as_bytes() }.time().ok();
        assert_eq!(time("19700101000000Z"), Some(0));
        assert_eq!(time("20000229235959Z"), Some(951_868_799));
        assert_eq!(time("20261124020304Z"), Some(1_795_485_784));
        for bad in
            ["20261324020304Z", "20261124020304", "20261124020304.5Z", "2026112402030Z", "20261124020304+0100", ""]
        {
            assert_eq!(time(bad), None, "{bad}");
        }
    }
}
