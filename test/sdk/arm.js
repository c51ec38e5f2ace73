// The management of CA certificates through @azure/arm-iothub, unmodified.
// Usage: node arm.js BASE-URL TOKEN HUB CA-FILE PROVER (and NODE_EXTRA_CA_CERTS)
// PROVER is a command that prints a proof certificate for the code it is given.
'use strict';
const assert = require('assert');
const fs = require('fs');
const { execFileSync } = require('child_process');
const { IotHubClient } = require('@azure/arm-iothub');

const [base, token, hub, caFile, prover] = process.argv.slice(2);

async function refused(promise, status, code) {
  try {
    await promise;
  } catch (err) {
    assert.strictEqual(err.statusCode, status, `${err.statusCode} ${err.message}`);
    if (code) assert.match(`${err.code} ${err.message}`, code);
    return;
  }
  assert.fail(`expected ${status}`);
}

async function main() {
  const credential = { getToken: async () => ({ token, expiresOnTimestamp: Date.now() + 3600e3 }) };
  const client = new IotHubClient(credential, '00000000-0000-0000-0000-000000000000', { endpoint: base });
  const certificates = client.certificates;

  const hubs = [];
  for await (const h of client.iotHubResource.listBySubscription()) hubs.push(h.name);
  assert.ok(hubs.includes(hub), `hubs: ${hubs}`);

  const pem = fs.readFileSync(caFile);
  const put = (body, options) => certificates.createOrUpdate('rg', hub, 'acme', { properties: body }, options);
  const first = await put({ certificate: pem.toString('base64') });
  assert.strictEqual(first.properties.isVerified, false);
  assert.match(first.properties.thumbprint, /^[0-9A-F]{40}$/);
  assert.ok(first.properties.expiry instanceof Date && first.properties.expiry > new Date());

  // The same certificate in the other two encodings is the same certificate.
  const der = pem.toString().replace(/-----[^-]+-----|\s/g, '');
  for (const certificate of [pem.toString().replace(/\n/g, '\r\n'), der]) {
    const again = await put({ certificate });
    assert.strictEqual(again.properties.thumbprint, first.properties.thumbprint);
    assert.strictEqual(again.etag, first.etag);
  }
  console.log('ok upload');

  const withCode = await certificates.generateVerificationCode('rg', hub, 'acme', first.etag);
  assert.match(withCode.properties.verificationCode, /^[0-9A-F]{48}$/);
  assert.notStrictEqual(withCode.etag, first.etag);
  await refused(certificates.verify('rg', hub, 'acme', first.etag, { certificate: 'x' }), 412, /412001/);

  // The CA itself proves nothing.
  await refused(certificates.verify('rg', hub, 'acme', withCode.etag, { certificate: pem.toString('base64') }), 400);

  const proof = execFileSync('/bin/sh', ['-c', prover, 'prover', withCode.properties.verificationCode]);
  const verified = await certificates.verify('rg', hub, 'acme', withCode.etag, { certificate: proof.toString('base64') });
  assert.strictEqual(verified.properties.isVerified, true);
  assert.notStrictEqual(verified.etag, withCode.etag);
  console.log('ok proof of possession');

  const list = await certificates.listByIotHub('rg', hub);
  assert.deepStrictEqual(list.value.map((c) => c.name), ['acme']);
  const got = await certificates.get('rg', hub, 'acme');
  assert.strictEqual(got.etag, verified.etag);
  assert.strictEqual(got.properties.certificate, der);
  await refused(certificates.get('rg', hub, 'nobody'), 404);
  console.log('ok list, get');

  await refused(certificates.delete('rg', hub, 'acme', first.etag), 412, /412001/);
  await certificates.delete('rg', hub, 'acme', verified.etag);
  assert.deepStrictEqual((await certificates.listByIotHub('rg', hub)).value, []);

  // Verified at upload.
  const vouched = await put({ certificate: pem.toString('base64'), isVerified: true });
  assert.strictEqual(vouched.properties.isVerified, true);
  await certificates.delete('rg', hub, 'acme', vouched.etag);
  console.log('ok delete, verified at upload');

  const bad = { getToken: async () => ({ token: 'wrong', expiresOnTimestamp: Date.now() + 3600e3 }) };
  await refused(new IotHubClient(bad, '0', { endpoint: base }).certificates.listByIotHub('rg', hub), 401);
  console.log('ok unauthorized');
}

main().catch((err) => {
  console.log(err.stack || String(err));
  process.exit(1);
});
