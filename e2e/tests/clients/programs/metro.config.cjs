// Metro's settings for a project without packages of its own: those of the tests are in $MODULES.
const modules = process.env.MODULES;

module.exports = {
  projectRoot: process.cwd(),
  watchFolders: ["metro-runtime", "@babel/runtime"].map((name) => `${modules}/${name}`),
  resolver: { useWatchman: false, nodeModulesPaths: [modules] },
  transformer: { babelTransformerPath: `${modules}/metro-babel-transformer` },
};
