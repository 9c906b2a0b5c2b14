# What one does with this repository; `make` alone lists it.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
CARGO_TARGET_DIR ?= target

export PATH := $(PATH):/usr/sbin:/sbin:$(HOME)/.cargo/bin
version := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
soname := libr3map.so.$(firstword $(subst ., ,$(version)))
built := $(CARGO_TARGET_DIR)/release
lib := $(DESTDIR)$(PREFIX)/lib
include := $(DESTDIR)$(PREFIX)/include
bin := $(DESTDIR)$(PREFIX)/bin
man := $(DESTDIR)$(PREFIX)/share/man/man1

.PHONY: help setup build demo demo-nbd test test-rust test-c test-python test-go test-mixed test-command test-guest test-qemu soak fuzz bench bench-wan install uninstall lint docs clean

help:
	@echo 'make setup       install what is missing (as root; else it says what to install)'
	@echo 'make build       build the library and the command'
	@echo 'make demo        a SQLite database at a server as a file and as memory, then moved in use; every byte compared'
	@echo 'make demo-nbd    the same on a real /dev/nbdX, in a User-Mode Linux guest'
	@echo 'make test        all tests (parts: test-rust test-c test-python test-go test-mixed test-command test-guest)'
	@echo 'make test-qemu   the device tests on a stock Debian kernel in QEMU, some 15 minutes'
	@echo 'make soak        SECONDS=600: migrations simulated, killed and chained, with new seeds in each round'
	@echo 'make fuzz        SECONDS=60: a fuzzer for everything that takes bytes from outside, each that long (WHAT=nbd: those named so)'
	@echo 'make bench       figures, each beside a floor or a peer of the same run (WHAT=copy: those named so)'
	@echo 'make bench-wan   the same of mounts over 10, 30 and 100 ms, a few minutes'
	@echo 'make install     PREFIX=$(PREFIX) DESTDIR=: the r3map command and its manual, libr3map, r3map.h, r3map.pc'
	@echo 'make uninstall   with the same PREFIX and DESTDIR'
	@echo 'make lint        formatting and lints'
	@echo 'make docs        the reference of each language, from its comments, in target/doc'
	@echo 'make clean       remove what was built'

setup:
	@scripts/setup test

build:
	@scripts/setup build
	$(CARGO) build --release --locked

demo:
	@scripts/setup test
	$(CARGO) build --release --locked --bins --examples
	examples/demo --programs $(built)

demo-nbd:
	@scripts/setup test
	$(CARGO) build --release --locked --bins --examples
	tests/kernel/run --memory 2G --timeout 300 -- examples/demo --programs $(abspath $(built)) --only nbd

test:
	@scripts/setup test
	tests/run

test-rust test-c test-python test-go test-mixed test-command test-guest: test-%:
	@scripts/setup test
	tests/run $*

test-qemu:
	@scripts/setup qemu
	tests/run qemu

soak: SECONDS ?= 600
soak:
	@scripts/setup test
	SECONDS_OF_SOAK=$(SECONDS) tests/soak

fuzz: SECONDS ?= 60
fuzz:
	@scripts/setup fuzz
	fuzz/run $(SECONDS) $(WHAT)

bench:
	@scripts/setup bench
	$(CARGO) build --release --locked -p r3map-benches -p r3map-ffi
	$(built)/r3map-bench $(WHAT)
	@test -n "$(filter-out read_at go,$(WHAT))" || benches/go
	@test -n "$(WHAT)" || benches/python/run
	@test -e /sys/block/nbd0 || { echo 'On /dev/nbdX, in a User-Mode Linux guest:'; \
		tests/kernel/run --memory 1G --timeout 300 -- $(abspath $(built))/r3map-bench nbd || \
		echo 'nbd: not measured, for the reason above'; }

bench-wan:
	@scripts/setup bench
	$(CARGO) build --release --locked -p r3map-benches
	$(built)/r3map-bench wan:

install: build
	install -d $(bin) $(include) $(lib)/pkgconfig
	install -m 755 $(built)/r3map $(bin)/r3map
	install -d $(man)
	$(built)/r3map man $(man)
	install -m 644 include/r3map.h $(include)/r3map.h
	install -m 755 $(built)/libr3map.so $(lib)/libr3map.so.$(version)
	ln -sf libr3map.so.$(version) $(lib)/$(soname)
	ln -sf $(soname) $(lib)/libr3map.so
	install -m 644 $(built)/libr3map.a $(lib)/libr3map.a
	sed -e 's|@prefix@|$(PREFIX)|' -e 's|@version@|$(version)|' r3map.pc.in > $(lib)/pkgconfig/r3map.pc
	chmod 644 $(lib)/pkgconfig/r3map.pc

uninstall:
	rm -f $(man)/r3map.1 $(man)/r3map-*.1
	rm -f $(bin)/r3map $(include)/r3map.h $(lib)/pkgconfig/r3map.pc
	rm -f $(lib)/libr3map.so $(lib)/$(soname) $(lib)/libr3map.so.$(version) $(lib)/libr3map.a

lint:
	@scripts/setup build
	$(CARGO) fmt --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

docs:
	@scripts/setup build
	scripts/docs

clean:
	$(CARGO) clean
