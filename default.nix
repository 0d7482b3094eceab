# peerix without flakes: `nix-build`. The module is ./module.nix.
{
  pkgs ? import <nixpkgs> { },
}:

pkgs.callPackage ./package.nix { }
