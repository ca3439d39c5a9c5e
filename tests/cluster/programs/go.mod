module kvpn.dev/testprograms

go 1.24
