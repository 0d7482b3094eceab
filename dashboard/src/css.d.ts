// esbuild bundles style sheets too.
declare module "*.css";
