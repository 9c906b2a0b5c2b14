# Sourced by the tests of the installation: installs into a place of this test's own as `make install` does, points
# pkg-config there, and makes app.c and app.cc, which say the library's version after they used it.
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/root/opt/r3map
lib=$prefix/lib
export PKG_CONFIG_PATH="$lib/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$work/root"

make_target() { make -s -C "$root" "$1" DESTDIR="$work/root" PREFIX=/opt/r3map; }
fail() { echo "$*" >&2; exit 1; }

cat >"$work/app.c" <<'TEXT'
#include <r3map.h>
#include <stdio.h>
#include <string.h>
int main(void)
{
    r3map_backend *backend;
    r3map_mount *mount;
    char found[6] = "";
    r3map_error *error = r3map_backend_open("memory:?size=1MiB", NULL, NULL, &backend);
    if (!error)
        error = r3map_mount_open(backend, NULL, NULL, &mount);
    if (!error)
        error = r3map_mount_write_at(mount, "bytes", 5, 4094, NULL);
    if (!error)
        error = r3map_mount_read_at(mount, found, 5, 4094, NULL);
    if (!error)
        error = r3map_mount_close(mount, NULL);
    if (error) {
        fprintf(stderr, "%s\n", r3map_error_message(error));
        return 1;
    }
    r3map_mount_free(mount);
    r3map_backend_free(backend);
    puts(strcmp(found, "bytes") == 0 ? r3map_version() : "other bytes");
    return 0;
}
TEXT

cat >"$work/app.cc" <<'TEXT'
#include <r3map.h>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
static void check(r3map_error *error)
{
    std::unique_ptr<r3map_error, void (*)(r3map_error *)> owned(error, r3map_error_free);
    if (owned)
        throw std::runtime_error(r3map_error_message(owned.get()));
}
int main()
{
    r3map_backend *backend = nullptr;
    check(r3map_backend_open("memory:?size=1MiB", nullptr, nullptr, &backend));
    std::unique_ptr<r3map_backend, void (*)(r3map_backend *)> owned(backend, r3map_backend_free);
    std::string found(5, ' ');
    check(r3map_backend_write_at(backend, "bytes", 5, 4094, nullptr));
    check(r3map_backend_read_at(backend, &found[0], 5, 4094, nullptr));
    try {
        check(r3map_backend_open("memroy:", nullptr, nullptr, &backend));
    } catch (const std::runtime_error &error) {
        if (found == "bytes" && std::string(error.what()).find("\"memory\"") != std::string::npos)
            std::cout << r3map_version() << std::endl;
    }
}
TEXT

make_target install
version=$(pkg-config --modversion r3map)
