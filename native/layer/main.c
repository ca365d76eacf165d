/* wherry-layer: the file system half of building images.
 *
 *   wherry-layer pack UPPER CLAMP LAYER…                      what a step wrote, as a layer's tar on stdout
 *   wherry-layer list names|contents DRAFT COUNT LAYER… PATH…   what is at PATH in a stage, on stdout
 *   wherry-layer copy DRAFT COUNT LAYER… COUNT LAYER… [DIR] < operations
 *                                                          files from a stage or a folder into a stage
 *
 * A stage is a list of layers, lowest first: folders of the image store, joined by overlayfs. A step writes
 * into UPPER, a folder on the disk. Untrusted programs wrote everything in those folders, and this one runs
 * as root: so it mounts in its own mount namespace, makes the stage (or UPPER) its root, drops all
 * capabilities that it does not need, and lets the kernel resolve every name inside that root (openat2).
 * services/build/layer-tool.ts decides what to do, this program performs it.
 *
 * Reading order: root.c (confinement), names.c, xattr.c, links.c, then pack.c with tar.c, list.c, operation.c
 * and copy.c.
 *
 * It answers one line on standard error: "ok ENTRIES", or a verdict and the reason (answer.c). */

#include "layer.h"

#include <string.h>

int
main (int argc, char **argv)
{
  static char buffer[256 * 1024];
  setvbuf (stdout, buffer, _IOFBF, sizeof buffer);
  if (argc >= 4 && strcmp (argv[1], "pack") == 0)
    wy_pack (argc - 2, argv + 2);
  else if (argc >= 5 && strcmp (argv[1], "list") == 0)
    wy_list (argc - 2, argv + 2);
  else if (argc >= 5 && strcmp (argv[1], "copy") == 0)
    wy_copy (argc - 2, argv + 2);
  else
    wy_refuse ("wherry-layer", "is used as: pack UPPER CLAMP LAYER… | list names|contents DRAFT COUNT LAYER… "
                               "PATH… | copy DRAFT COUNT LAYER… COUNT LAYER… [DIR]");
  if (fflush (stdout) != 0)
    wy_fail ("write", "");
  wy_answer_ok (wy_entries ());
  return WY_OK;
}
