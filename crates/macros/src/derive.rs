//! The derive itself, from syntax tree to tokens, so that it is tested without a compiler.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::meta::ParseNestedMeta;
use syn::spanned::Spanned;
use syn::{
    Data, DeriveInput, Error, Field, Ident, Index, LitInt, LitStr, Member, Path, Result, Type,
};

use crate::grammar::{check_event_type, check_source};

/// The implementation of `DomainEvent`, or every mistake at once.
pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let mut mistakes = Mistakes(None);
    let options = mistakes.keep(Options::read(input)).unwrap_or_default();
    let fields = mistakes.keep(Fields::read(input)).unwrap_or_default();
    if options.event_type.is_none() && mistakes.0.is_none() {
        mistakes.add(Error::new(
            input.ident.span(),
            "the event type is missing: add #[event(type = \"orders.placed\")] to the type",
        ));
    }
    if let Some(error) = mistakes.0 {
        return Err(error);
    }
    let name = &input.ident;
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    let bus = options
        .bus
        .map_or_else(|| quote!(::fanfare::bus), |path| quote!(#path));
    let event_type = &options.event_type;
    let version = constant("VERSION", options.version.as_ref());
    let source = constant("SOURCE", options.source.as_ref());
    let key = accessor("key", fields.key.as_ref());
    let subject = accessor("subject", fields.subject.as_ref());
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #bus::event::DomainEvent for #name #type_generics #where_clause {
            const TYPE: &'static str = #event_type;
            #version
            #source
            #key
            #subject
        }
    })
}

fn constant(name: &str, value: Option<&LitStr>) -> Option<TokenStream> {
    let value = value?;
    let name = Ident::new(name, Span::call_site());
    Some(quote! {
        const #name: ::core::option::Option<&'static str> = ::core::option::Option::Some(#value);
    })
}

fn accessor(name: &str, field: Option<&(Member, bool)>) -> Option<TokenStream> {
    let (member, optional) = field?;
    let name = Ident::new(name, Span::call_site());
    let value = if *optional {
        quote!(self.#member.as_ref().map(::std::string::ToString::to_string))
    } else {
        quote!(::core::option::Option::Some(::std::string::ToString::to_string(&self.#member)))
    };
    Some(quote! {
        fn #name(&self) -> ::core::option::Option<::std::string::String> {
            #value
        }
    })
}

/// What `#[event(..)]` says on the type.
#[derive(Default)]
struct Options {
    event_type: Option<LitStr>,
    version: Option<LitStr>,
    source: Option<LitStr>,
    bus: Option<Path>,
}

impl Options {
    fn read(input: &DeriveInput) -> Result<Self> {
        let mut options = Self::default();
        let mut mistakes = Mistakes(None);
        for attribute in input.attrs.iter().filter(|a| a.path().is_ident("event")) {
            mistakes.keep(attribute.parse_nested_meta(|meta| options.take(&meta)));
        }
        mistakes.or(options)
    }

    fn take(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        if meta.path.is_ident("type") {
            let text = meta.value()?.parse::<LitStr>()?;
            check_event_type(&text.value()).map_err(|detail| Error::new(text.span(), detail))?;
            once(&mut self.event_type, text, meta)
        } else if meta.path.is_ident("version") {
            let value = meta.value()?;
            let text = if value.peek(LitInt) {
                let number = value.parse::<LitInt>()?;
                LitStr::new(number.base10_digits(), number.span())
            } else {
                value.parse::<LitStr>()?
            };
            if text.value().is_empty() {
                return Err(Error::new(
                    text.span(),
                    "version is empty; write for example \"1\"",
                ));
            }
            once(&mut self.version, text, meta)
        } else if meta.path.is_ident("source") {
            let text = meta.value()?.parse::<LitStr>()?;
            check_source(&text.value()).map_err(|detail| Error::new(text.span(), detail))?;
            once(&mut self.source, text, meta)
        } else if meta.path.is_ident("crate") {
            let path = meta.value()?.parse::<LitStr>()?.parse()?;
            once(&mut self.bus, path, meta)
        } else if meta.path.is_ident("key") || meta.path.is_ident("subject") {
            Err(meta.error("`key` and `subject` stand on the field: #[event(key)] id: Uuid"))
        } else {
            Err(meta.error("expected `type`, `version`, `source` or `crate`"))
        }
    }
}

/// The marked fields, and whether each is an `Option`.
#[derive(Default)]
struct Fields {
    key: Option<(Member, bool)>,
    subject: Option<(Member, bool)>,
}

impl Fields {
    fn read(input: &DeriveInput) -> Result<Self> {
        let mut marked = Self::default();
        let mut mistakes = Mistakes(None);
        match &input.data {
            Data::Struct(data) => {
                for (index, field) in data.fields.iter().enumerate() {
                    mistakes.keep(marked.take(index, field));
                }
            }
            Data::Enum(data) => {
                let fields = data.variants.iter().flat_map(|variant| &variant.fields);
                for mark in fields.flat_map(marks) {
                    let detail = "the fields of an enum cannot be marked; implement `key` by hand";
                    mistakes.add(Error::new(mark.span(), detail));
                }
            }
            Data::Union(data) => {
                let detail = "a union cannot be an event";
                mistakes.add(Error::new(data.union_token.span(), detail));
            }
        }
        mistakes.or(marked)
    }

    fn take(&mut self, index: usize, field: &Field) -> Result<()> {
        let member = field
            .ident
            .clone()
            .map_or_else(|| Member::Unnamed(Index::from(index)), Member::Named);
        let value = (member, is_option(&field.ty));
        for attribute in marks(field) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("key") {
                    once(&mut self.key, value.clone(), &meta)
                } else if meta.path.is_ident("subject") {
                    once(&mut self.subject, value.clone(), &meta)
                } else {
                    Err(meta.error("expected `key` or `subject`"))
                }
            })?;
        }
        Ok(())
    }
}

fn marks(field: &Field) -> impl Iterator<Item = &syn::Attribute> {
    field.attrs.iter().filter(|a| a.path().is_ident("event"))
}

fn once<T>(slot: &mut Option<T>, value: T, meta: &ParseNestedMeta<'_>) -> Result<()> {
    if slot.replace(value).is_some() {
        return Err(meta.error("given more than once"));
    }
    Ok(())
}

fn is_option(field: &Type) -> bool {
    matches!(field, Type::Path(path)
        if path.path.segments.last().is_some_and(|last| last.ident == "Option"))
}

/// Collects errors, so that a user sees all of them in one build.
struct Mistakes(Option<Error>);

impl Mistakes {
    fn add(&mut self, error: Error) {
        match &mut self.0 {
            Some(all) => all.combine(error),
            None => self.0 = Some(error),
        }
    }

    fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.add(error)).ok()
    }

    fn or<T>(self, value: T) -> Result<T> {
        self.0.map_or(Ok(value), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(input: TokenStream) -> String {
        expand(&syn::parse2(input).unwrap()).unwrap().to_string()
    }

    fn mistakes(input: TokenStream) -> Vec<String> {
        let error = expand(&syn::parse2(input).unwrap()).unwrap_err();
        error.into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn everything_said_is_in_the_implementation() {
        let tokens = expanded(quote! {
            #[event(type = "orders.placed", version = 1, source = "/orders")]
            struct OrderPlaced<T: Serialize> {
                #[event(key)]
                id: Uuid,
                #[event(subject)]
                customer: Option<String>,
                total: T,
            }
        });
        let expected = quote! {
            #[automatically_derived]
            impl<T: Serialize> ::fanfare::bus::event::DomainEvent for OrderPlaced<T> {
                const TYPE: &'static str = "orders.placed";
                const VERSION: ::core::option::Option<&'static str> =
                    ::core::option::Option::Some("1");
                const SOURCE: ::core::option::Option<&'static str> =
                    ::core::option::Option::Some("/orders");
                fn key(&self) -> ::core::option::Option<::std::string::String> {
                    ::core::option::Option::Some(::std::string::ToString::to_string(&self.id))
                }
                fn subject(&self) -> ::core::option::Option<::std::string::String> {
                    self.customer.as_ref().map(::std::string::ToString::to_string)
                }
            }
        };
        assert_eq!(tokens, expected.to_string());
    }

    #[test]
    fn a_type_is_enough_and_the_bus_may_live_elsewhere() {
        let tokens = expanded(quote! {
            #[event(type = "a", crate = "fanfare_bus")]
            struct A(#[event(key)] u64);
        });
        let expected = quote! {
            #[automatically_derived]
            impl fanfare_bus::event::DomainEvent for A {
                const TYPE: &'static str = "a";
                fn key(&self) -> ::core::option::Option<::std::string::String> {
                    ::core::option::Option::Some(::std::string::ToString::to_string(&self.0))
                }
            }
        };
        assert_eq!(tokens, expected.to_string());
    }

    #[test]
    fn a_missing_type_is_explained() {
        let mistakes = mistakes(quote!(
            struct A;
        ));
        assert_eq!(mistakes.len(), 1);
        assert!(
            mistakes[0].contains("#[event(type = \"orders.placed\")]"),
            "{mistakes:?}"
        );
    }

    #[test]
    fn every_mistake_is_shown_at_once() {
        let mistakes = mistakes(quote! {
            #[event(type = "orders.*")]
            #[event(sauce = "/orders")]
            struct A {
                #[event(key)]
                a: u8,
                #[event(key)]
                b: u8,
                #[event(keys)]
                c: u8,
            }
        });
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
        assert!(mistakes[0].contains("wildcards belong to patterns"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for input in [
            quote!(
                #[event(type = "a..b")]
                struct A;
            ),
            quote!(
                #[event(type = "a", type = "b")]
                struct A;
            ),
            quote!(
                #[event(type = "a", version = "")]
                struct A;
            ),
            quote!(
                #[event(type = "a", source = "my app")]
                struct A;
            ),
            quote!(
                #[event(type = "a", key = "id")]
                struct A;
            ),
            quote!(
                #[event(type = "a")]
                enum A {
                    B {
                        #[event(key)]
                        c: u8,
                    },
                }
            ),
            quote!(#[event(type = "a")] union A { b: u8 }),
            quote!(
                #[event(type = 7)]
                struct A;
            ),
        ] {
            assert_eq!(mistakes(input.clone()).len(), 1, "{input}");
        }
    }
}
