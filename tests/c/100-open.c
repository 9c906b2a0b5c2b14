/* A backend opens by its URL, says its size, and a wrong URL is refused with what is wrong with it. */
#include "test.h"

int main(void)
{
    r3map_backend *backend = open_backend("memory:?size=12345");
    uint64_t size = 0;
    bool read_only = true;
    OK(r3map_backend_size(backend, &size));
    OK(r3map_backend_read_only(backend, &read_only));
    CHECK(size == 12345 && !read_only);
    r3map_backend_free(backend);

    struct file file = new_file("open", 777);
    backend = open_backend(file.url);
    OK(r3map_backend_size(backend, &size));
    CHECK(size == 777);
    r3map_backend_free(backend);

    r3map_backend *none = NULL;
    FAILS(r3map_backend_open("fiel:///x", NULL, NULL, &none), R3MAP_INVALID_ARGUMENT,
          "unknown scheme \"fiel\"; did you mean \"file\"?");
    FAILS(r3map_backend_open("memory:?sice=1", NULL, NULL, &none), R3MAP_INVALID_ARGUMENT,
          "unknown parameter \"sice\"; did you mean \"size\"?");
    FAILS(r3map_backend_open("/etc/passwd", NULL, NULL, &none), R3MAP_INVALID_ARGUMENT, "is not a URL");
    FAILS(r3map_backend_open("file:///does/not/exist", NULL, NULL, &none), R3MAP_NOT_FOUND, "/does/not/exist");
    FAILS(r3map_backend_open("\xff\xfe", NULL, NULL, &none), R3MAP_INVALID_ARGUMENT, "the URL is not UTF-8");
    CHECK(none == NULL);
    return 0;
}
