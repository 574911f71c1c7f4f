//! How messages become JSON: `pb_option` of `grpc-transcode`, in the words of lua-protobuf. The surprise: the list is a set that is
//! applied in alphabetical order, so that of two options that exclude each other the later name holds, wherever it stands.

/// 64-bit integers outside of -2³¹ to 2³²-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Int64 {
    /// As numbers.
    Number,
    /// As text, `#` before the digits.
    Text,
    /// As text, `#0x` before the digits.
    Hexadecimal,
}

/// What is written of fields that the message does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defaults {
    /// The default values of proto3, nothing of proto2.
    Auto,
    /// Nothing.
    None,
    /// The default values of proto3, and those that proto2 names.
    All,
    /// Empty lists and maps of proto3 alone: lua-protobuf hides the other values from who prints the message.
    Containers,
}

/// All of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Enumerations as numbers, not by their names.
    pub enum_as_value: bool,
    pub int64: Int64,
    pub defaults: Defaults,
}

impl Default for Options {
    fn default() -> Options {
        Options { enum_as_value: false, int64: Int64::Number, defaults: Defaults::Auto }
    }
}

impl Options {
    /// Of their names; `enable_hooks` and `disable_hooks` change nothing, as there are no hooks.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Options {
        let mut names: Vec<&str> = names.into_iter().collect();
        names.sort_unstable();
        let mut options = Options::default();
        for name in names {
            match name {
                "enum_as_name" => options.enum_as_value = false,
                "enum_as_value" => options.enum_as_value = true,
                "int64_as_number" => options.int64 = Int64::Number,
                "int64_as_string" => options.int64 = Int64::Text,
                "int64_as_hexstring" => options.int64 = Int64::Hexadecimal,
                "auto_default_values" => options.defaults = Defaults::Auto,
                "no_default_values" => options.defaults = Defaults::None,
                "use_default_values" => options.defaults = Defaults::All,
                "use_default_metatable" => options.defaults = Defaults::Containers,
                _ => {}
            }
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_list_does_not_count() {
        assert_eq!(Options::of([]), Options::default());
        for names in [["enum_as_value", "enum_as_name"], ["enum_as_name", "enum_as_value"]] {
            assert!(Options::of(names).enum_as_value);
        }
        let all = Options::of(["use_default_values", "int64_as_hexstring", "disable_hooks", "int64_as_string"]);
        assert_eq!((all.int64, all.defaults), (Int64::Text, Defaults::All));
    }
}
